"""What the commands print fits the terminal, and is not cut: at 60 columns, and at 80."""

from __future__ import annotations

from pathlib import Path

import pytest

from atras import cli
from atras.testing.fake_run import make_run

NAMES = ("8-16-32-64-128-256-512-1024", "24-192", "16-32-64-128-256-512-1024", "40")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "a-20261126-164032", names=NAMES, outcomes=True)
    make_run(folder / "b", names=NAMES, seeds=range(3), outcomes=True)
    return folder


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize(
    "command",
    ["list .", "show a-20261126-164032", "claims", "claims b", "compare a-20261126-164032 b"],
)
def test_no_line_is_longer_than_the_terminal(
    command: str, width: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", str(width))
    args = command.split()
    assert cli.execute(cli.app, args, "atras") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "..." not in text
    named = {"list": ("a-20261126-164032", "b"), "show": NAMES, "compare": ("recovery_white_box",)}.get(args[0], ())
    assert all(name in text for name in named)
