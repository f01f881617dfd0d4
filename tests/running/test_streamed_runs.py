"""Runs whose images stay in their file give bitwise what runs with resident images give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atras.data import StoredImages, load
from atras.evaluation import Evaluator, StoredSigns
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.planning import streaming
from atras.running import make_plan, run
from atras.testing import tables_of

CPU = {"device": "cpu", "checkpoint_every": 0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def colours(tmp_path: Path) -> str:
    """A file of 90 + 30 coloured images of 10 x 12 pixels in 5 classes."""
    draw = np.random.default_rng(0)
    parts = {"train": 90, "test": 30}
    images = {f"x_{part}": draw.integers(0, 256, (n, 10, 12, 3), np.uint8) for part, n in parts.items()}
    np.savez(tmp_path / "colours.npz", **images, **{f"y_{part}": np.arange(n) % 5 for part, n in parts.items()})
    return str(tmp_path / "colours.npz")


def protocol(dataset: str, **changes: object) -> Protocol:
    fields = {
        "dataset": dataset, "train_size": 70, "test_size": 25, "subset": "stratified", "candidates": (Candidate((8,)), Candidate((6, 9))),
        "seeds": (0, 3), "batch_size": 16, "epochs": 2, "adversarial_epochs": 2, "head_dropout": 0.1, "stem": "none",
        "attacks": ("pgd(steps=2)",), "transfer": True, "precision": "fp32",
    }  # fmt: skip
    return Protocol(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["fused", "stack", "loop"])
@pytest.mark.parametrize("defence", ["copies", "copies(source=smallest)", "batch(random-fgsm)"])
def test_streamed_runs_are_bitwise_resident_ones(
    colours: str, engine: str, defence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, execution = protocol(colours, defence=defence), Execution(engine=engine, **CPU)  # type: ignore[arg-type]
    run(asked, execution, out=tmp_path / "resident")
    monkeypatch.setattr(streaming, "SHARE", 10**9)
    plan = make_plan(asked, execution)
    assert all(group.chunk == 16 for group in plan.groups)
    assert any("streamed" in line for line in plan.lines())
    run(asked, execution, out=tmp_path / "streamed")
    assert tables_of(tmp_path / "streamed") == tables_of(tmp_path / "resident")
    pictures = [(tmp_path / kind / "examples.parquet").read_bytes() for kind in ("streamed", "resident")]
    assert pictures[0] == pictures[1]
