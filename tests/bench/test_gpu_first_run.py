"""The script of the first run on a GPU, gone through on a CPU: its steps work, and what is wrong stops the clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_first_run
from atras.networks import Parameters

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = "import sys; sys.modules.update(dict.fromkeys(('polars', 'rich', 'typer')));"


def run(*args: object) -> int:
    return gpu_first_run.main([str(each) for each in args])


def test_truth_and_bits_are_told_without_polars_rich_and_typer(tmp_path: Path) -> None:
    out = tmp_path / "first.json"
    steps = ["truth", "tiny", "repeat", "signs", "memcheck", "tests", "command", "peers"]
    data = tmp_path / "some.npz"
    images, labels = np.random.default_rng(0).integers(0, 256, (400, 8, 8), dtype=np.uint8), np.arange(400) % 10
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    more = ["--device", "cpu", "--fewer", "39", "--runs", "2", "--turns", "1", "--data", str(data), "--out", str(out)]
    code = f"{WITHOUT} sys.path.insert(0, 'bench'); import gpu_first_run; sys.exit(gpu_first_run.main({steps + more}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    told = results["truth"]["fp32"]
    assert len(told["losses"]) == 3  # whole batches of 400 images
    assert 0 < max(told["losses"]) <= 1e-6
    assert 0 < max(told["torch"]) < 1e-2  # another one's rounding
    assert told["ratio"] < 4
    assert list(results["repeat"]["fp32"]["results"].values()) == [2]
    assert all(share["ours"] < 0.01 for share in results["signs"].values())
    (turn,) = results["command"]["turns"]  # in a process of its own, which has polars
    assert turn["run_seconds"] == pytest.approx(sum(turn["seconds_at"].values()))
    assert min(turn["startup_seconds"], turn["seconds_at"]["groups"]) > 0
    assert '"seconds_at": {"start": ' in done.stdout
    assert all(results[name] == {"skipped": "needs a GPU"} for name in ("memcheck", "tests", "peers"))


def shifted(self: Any, index: int, values: Parameters, moment: int) -> None:
    """As set, but for a hundredth."""
    SET(self, index, {name: value * 1.01 for name, value in values.items()}, moment)


def hurried(self: Any, count: int) -> Any:
    """The learning rates, but for a thousandth: no loss of a single step tells."""
    return RATES(self, count) * 1.001


SET, RATES = gpu_first_run.FusedEngine._set_parameters, gpu_first_run.FusedEngine.rates


@pytest.mark.parametrize(("name", "wrong"), [("_set_parameters", shifted), ("rates", hurried)])
def test_a_wrong_step_is_found_and_then_nothing_is_timed(
    name: str, wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_first_run.FusedEngine, name, wrong)
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert run("truth", "table", "--device", "cpu", "--fewer", 39, "--out", first) == 1
    assert json.loads(first.read_text())["table"] == {"ok": False, "skipped": "truth failed: nothing is timed"}
    assert run("profile", "--device", "cpu", "--fewer", 39, "--out", second, "--after", first) == 1
    assert "microseconds_a_step" not in json.loads(second.read_text())["profile"]


def test_the_sizes_that_were_asked_for_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "timed.json"
    assert run("profile", "memory", "--device", "cpu", "--fewer", 39, "--out", out) == 0
    results = json.loads(out.read_text())
    assert results["profile"]["microseconds_a_step"] > 0
    assert results["memory"]["members"] == 20
    assert "a step:" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("truth", "--device", "cpu", "--data", tmp_path / "nothing.npz") == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        run("trouth")
    assert capsys.readouterr().err.startswith("gpu_first_run.py: argument STEP: invalid choice")
