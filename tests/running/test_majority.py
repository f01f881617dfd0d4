"""Data most of which are of one class: a network that always answers it wins nothing, and the baseline is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import atras
from atras import cli
from atras.analysis import best_robust, pareto_lines, ranking, summary_lines
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.report import write as write_report
from atras.running import run
from atras.search import rank_by_of, search
from atras.search.halving import Record

CPU = Execution(device="cpu")
pytestmark = pytest.mark.usefixtures("shared_cache")
SPACE = (Candidate((2,)), Candidate((12,)), Candidate((16,)))


def protocol_of(folder: Path, **changes: object) -> Protocol:
    """Nine images of ten are noise of class 0; those of classes 1 and 2 have a bright bar."""
    draw, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 240), ("test", 120)):
        labels = np.where(draw.random(count) < 0.9, 0, 1 + np.arange(count) % 2)
        images = draw.integers(0, 120, (count, 5, 5), dtype=np.uint8)
        for label in (1, 2):
            images[labels == label, label] += 130
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(folder / "rare.npz", **arrays)
    asked = {"candidates": SPACE, "epochs": 10, "adversarial_epochs": 1, "batch_size": 32, "learning_rate": 0.01}
    return Protocol(dataset=str(folder / "rare.npz"), epsilon=0.1, precision="fp32", **(asked | changes))  # type: ignore[arg-type]


def test_a_run_shows_the_baseline_beside_its_figures(tmp_path: Path) -> None:
    results = run(protocol_of(tmp_path), CPU, out=tmp_path / "run")
    counts = results.run["data"]["test_class_counts"]
    share = max(counts) / sum(counts)
    assert results.majority_share == share > 0.85
    line = f"baseline: the most frequent class is {share:.4f} of the test images"
    assert line in summary_lines(results)
    page = write_report([results], tmp_path / "page.md", "md").read_text().replace("\\", "")
    assert f"always answering the most frequent class has accuracy {share:.3f}" in page
    assert "| balanced |" in page
    assert any("always answering it has accuracy" in warning for warning in results.run["warnings"])
    rows = results.metrics.filter(split="test", phase="defended", mode="white-box", attack="fgsm", label_source="true")
    assert rows["majority_share"].unique().to_list() == [share]
    assert rows["balanced_accuracy"].to_list() == results.table["balanced_accuracy_after_white_box"].to_list()
    assert rows["balanced_accuracy"].to_list() == results.table["balanced_accuracy_after_worst_case"].to_list()


def test_dead_networks_are_neither_exported_nor_said_to_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol, folder = protocol_of(tmp_path, learning_rate=1.0, epochs=2), tmp_path / "run"  # at which all units die
    results = run(protocol, CPU, out=folder)
    assert results.members("dead") == [(candidate.name, "", 0) for candidate in SPACE]
    assert results.table["attacked_accuracy_after_white_box"].min() > 0.85  # type: ignore[operator]
    with pytest.raises(InputError, match="expected a candidate that trained, found none that is not dead or diverged"):
        best_robust(results)
    for way in (["--best", "robust"], ["--pareto"]):
        assert cli.execute(cli.app, ["export", str(folder), *way, "-o", str(tmp_path / "x.safetensors")], "atras") == 2
    assert "expected a candidate that trained" in capsys.readouterr().err
    assert pareto_lines(results) == ["Pareto front: empty, as no candidate trained"]


def test_a_search_ranks_by_balanced_accuracy_when_asked(tmp_path: Path) -> None:
    protocol = protocol_of(tmp_path, epochs=4)
    for rank_by in ("accuracy", "balanced"):
        folder = tmp_path / rank_by
        search(protocol, CPU, 20, folder, rank_by=rank_by)
        first, record = atras.read(folder / "round-1"), Record.read(folder).content
        assert record["rounds"][0]["ranking"] == ranking(first, rank_by=rank_by)["hidden_layers"].to_list()
        assert rank_by_of(folder) == rank_by
    with pytest.raises(InputError, match=r"rank_by \(='size'\): expected one of accuracy, balanced"):
        search(protocol, CPU, 20, tmp_path / "size", rank_by="size")
