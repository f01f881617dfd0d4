"""The comparison of attacks with textbook PyTorch: what it writes, what it refuses, and that a wrong attack ends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import attacks

TINY = ["--dataset", "digits", "--members", "2", "--images", "20", "--attack-steps", "3", "--rounds", "2"]


def test_the_command_compares_results_and_writes_medians_and_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "attacks.json"
    assert attacks.main([*TINY, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert set(found["contestants"]) == {"atras", *attacks.LOOPS}
    text = capsys.readouterr().out
    for name in attacks.LOOPS:
        assert found["differences"][name]["equal"] is True
        low, high = found["contestants"][name]["ratio_spread"]
        assert 0 < low <= found["contestants"][name]["ratio"] <= high
        assert name in text
    rates = [row["gflops"] * row["seconds"] for row in found["contestants"].values()]
    assert rates == pytest.approx([rates[0]] * 3)  # the same work


def test_another_attack_than_atras_makes_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def still(_: object, images: torch.Tensor, *__: object) -> torch.Tensor:
        return images

    monkeypatch.setattr(attacks, "pgd", still)
    assert attacks.main(TINY) == 1
    shown = capsys.readouterr()
    assert "adversarial images differ from those of loop_fp32, loop_fp32_channels_last" in shown.err
    assert not shown.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--members", "41"], "members (=41): expected a whole number from 1 to 40"),
        (["--images", "100000"], "images (=100000): expected a whole number from 1 to"),
        (["--rounds", "0"], "rounds (=0): expected a whole number from 1 on"),
        (["--dataset", "nothing"], "dataset (='nothing')"),
    ],
)
def test_bad_options_get_one_line(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    try:
        status = attacks.main(options)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
