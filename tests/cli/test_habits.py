"""Everyday habits on the command line: `~` where the shell leaves it, marks of editors, two runs in one second."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from atras import cli
from atras.results import read
from atras.testing.fake_run import make_run


def execute(*args: str) -> int:
    return cli.execute(cli.app, list(args), "atras")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_every_path_of_a_run_may_begin_at_home(schedule: Any, home: Path) -> None:
    (home / "run.toml").write_text('data_dir = "~/data"\ndataset = "~/mine.npz"\nepochs = 2\n')
    assert execute("run", "--config=~/run.toml", "--out=~/new") == 0
    assert execute("run", "--data-dir=~/data", "--dataset=~/mine.npz", "--out=~/new") == 0
    for call in schedule.calls:
        assert call.out == home / "new"
        assert (call.protocol.dataset, call.execution.data_dir) == (f"{home}/mine.npz", f"{home}/data")
    assert list(Path().glob("~*")) == []


def test_every_path_of_the_other_commands_may_begin_at_home(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(home / "run")
    assert read("~/run").directory == home / "run"
    assert execute("report", "~/run", "--out=~/page.html") == 0
    assert execute("claims", "~/run") == 0
    assert execute("compare", "~/run", "~/run") == 0
    assert (home / "page.html").is_file()
    assert execute("export", "~/run", "--hidden", "7", "-o", "~/w.onnx") == 2
    assert "the run has no such candidate" in capsys.readouterr().err
    assert execute("run", "--resume=~/rum") == 2
    assert f"did you mean {home}/run?" in capsys.readouterr().err
    assert list(Path().glob("~*")) == []


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_may_begin_with_a_byte_order_mark(schedule: Any, mark: bytes) -> None:
    Path("run.toml").write_bytes(mark + b"epochs = 3\r\n")
    assert execute("run", "--config", "run.toml") == 0
    assert schedule.calls[0].protocol.epochs == 3


def test_two_runs_in_one_second_have_two_folders(schedule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    there: list[Path] = []

    def begin(*_: Any, out: Path, **__: Any) -> str:
        there.append(out)
        if len(there) < 3:  # the next one begins before this one ends
            assert execute("run") == 0
        (out / "run.json").write_text("")
        return "the results"

    monkeypatch.setattr("atras.running.run", begin)
    assert execute("run") == 0
    name = "runs/digits-20260101-000000"
    assert [path.as_posix() for path in there] == [name, f"{name}-2", f"{name}-3"]


def test_a_run_that_never_began_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute("run", "--dataset", "nothing.npz") == 2
    assert list(tmp_path.iterdir()) == []
