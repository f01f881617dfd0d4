"""The tutorial runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from atras.report.charts.plots import Chart

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"


def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, TUTORIAL.name, "exec"), names)  # noqa: S102
    assert (tmp_path / "runs" / "tutorial.html").stat().st_size > 50_000
    assert len(list((tmp_path / "runs" / "tutorial-charts").glob("*.svg"))) >= 4
    results: Any = names["results"]
    depths = results.table["depth"]
    counted = f"{_WORDS[results.table['hidden_layers'].n_unique()].capitalize()} architectures of "
    counted += f"{_WORDS[depths.min()]} to {_WORDS[depths.max()]} hidden layers, "
    assert counted + f"{_WORDS[results.table['seed'].n_unique()]} seeds each" in TUTORIAL.read_text(encoding="utf-8")
    charts = names["charts"]
    assert isinstance(charts, dict)
    assert isinstance(charts["parameters-robust"], Chart)
    winner = names["winner"]
    assert isinstance(winner, dict)
    assert winner["attacked_accuracy_after_white_box"] > 0.5
    accuracies = names["accuracies"]
    assert isinstance(accuracies, list)
    assert len(accuracies) == 2
    assert all(0 < accuracy < 1 for accuracy in accuracies)  # attacked from outside, but not at random
