"""Runs whose images stay in their file give bitwise what runs with resident images give."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from atras.data import load
from atras.errors import Interrupted
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.planning import streaming
from atras.running import DataPlace, make_plan, resume, run
from atras.search import holdout
from atras.testing import tables_of
from atras.training import epochs

pytestmark = pytest.mark.usefixtures("shared_cache")


@pytest.fixture
def colours(tmp_path: Path) -> str:
    """A file of 90 + 30 coloured images of 10 x 12 pixels in 5 classes."""
    draw = np.random.default_rng(0)
    parts = {"train": 90, "test": 30}
    images = {f"x_{part}": draw.integers(0, 256, (n, 10, 12, 3), np.uint8) for part, n in parts.items()}
    np.savez(tmp_path / "colours.npz", **images, **{f"y_{part}": np.arange(n) % 5 for part, n in parts.items()})
    return str(tmp_path / "colours.npz")


def stream_all(patch: pytest.MonkeyPatch) -> None:
    """No images are resident from now on, and a chunk is one batch."""
    patch.setattr(streaming, "SHARE", 10**12)
    patch.setattr(streaming, "LEAST", 0)


def protocol(dataset: str, **changes: object) -> Protocol:
    fields: dict[str, object] = {
        "dataset": dataset, "train_size": 42, "test_size": 20, "subset": "stratified", "batch_size": 16, "epochs": 1,
        "candidates": (Candidate((8,)), Candidate((6, 9))), "seeds": (0, 3), "adversarial_epochs": 1, "stem": "none",
        "head_dropout": 0.1, "attacks": ("pgd(steps=2)",), "precision": "fp32",
    }  # fmt: skip
    return Protocol(**(fields | changes))  # type: ignore[arg-type]


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same figures and pictures, bit for bit."""
    pictures = [(folder / "examples.parquet").read_bytes() for folder in (one, other)]
    return tables_of(one) == tables_of(other) and pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("engine", "changes"),
    [
        ("fused", {"transfer": True, "epsilons": (0.0, 0.1), "target": "random"}),
        ("fused", {"defence": "copies(source=smallest)", "augment": "crop,flip"}),
        ("stack", {"defence": "batch(random-fgsm)", "augment": "flip"}),
        ("stack", {"label_source": "true", "evaluate_every": 1}),
        ("loop", {"defence": "copies(source=smallest)", "seeds": (3,)}),
    ],
)
def test_streamed_runs_are_bitwise_resident_ones(
    colours: str, engine: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, execution = protocol(colours, **changes), Execution(engine=engine, device="cpu", checkpoint_every=0)
    run(asked, execution, out=tmp_path / "resident")
    stream_all(monkeypatch)
    plan = make_plan(asked, execution)
    assert all(group.chunk == 16 for group in plan.groups)
    assert any("streamed" in line for line in plan.lines())
    run(asked, execution, out=tmp_path / "streamed")
    assert same(tmp_path / "streamed", tmp_path / "resident")
    recorded = json.loads((tmp_path / "streamed/run.json").read_text())["plan"]
    assert any("streamed" in line for line in recorded["limits"])
    if "augment" in changes:
        plain = run(asked.replace(augment="none"), execution).history
        assert not plain.equals(pl.read_parquet(tmp_path / "streamed/history.parquet"))


@pytest.mark.parametrize("defence", ["copies", "copies(source=smallest)"])
def test_streamed_and_augmented_runs_go_on_where_they_were_stopped(
    colours: str, defence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = protocol(colours, augment="crop,flip", defence=defence)
    execution = Execution(engine="fused", device="cpu", checkpoint_every=0)
    run(asked, execution, out=tmp_path / "whole")
    stream_all(monkeypatch)
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)  # to be asked after every step
    lives, asks = 0, itertools.count(1)

    def stop() -> bool:
        return next(asks) % 5 == 0

    while True:
        try:
            if lives == 0:
                run(asked, execution, out=tmp_path / "stopped", stop=stop)
            else:
                resume(tmp_path / "stopped", stop=stop)
            break
        except Interrupted:
            lives += 1
    assert lives > 3
    assert same(tmp_path / "stopped", tmp_path / "whole")


def test_a_search_holds_out_streamed_images(colours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = DataPlace.of(protocol(colours), Execution(device="cpu"))
    resident = holdout._selection(place.load(torch.device("cpu")))
    stream_all(monkeypatch)
    data = place.load(torch.device("cpu"))
    assert data.streamed
    assert holdout._selection(data) == resident
    (tmp_path / "selection.npz").write_bytes(resident)
    assert len(load(str(tmp_path / "selection.npz"), train_size="all", test_size="all").train) == 33


MEASURED = """
import sys, threading, time
import numpy as np
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.running import make_plan, run

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

def watch():
    while watching:
        seen.append(anonymous())
        time.sleep(0.002)

shared = dict(candidates=(Candidate((8,)), Candidate((8, 8))), epochs=1, adversarial_epochs=1, stem="none",
              precision="fp32", outcomes="none", test_size=300, batch_size=64)
execution = Execution(engine="fused", device="cpu", memory_bytes=32 * 2**20)
run(Protocol(dataset=sys.argv[1], train_size=100, **shared), execution)  # whatever is loaded once is loaded now
asked = Protocol(dataset=sys.argv[1], train_size="all", **shared)
plan = make_plan(asked, execution)
seen, watching = [anonymous()], True
watcher = threading.Thread(target=watch)
watcher.start()
run(asked, execution)
watching = False
watcher.join()
print(any("streamed" in line for line in plan.lines()), max(seen) - seen[0],
      max(group.predicted_bytes for group in plan.groups) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's own memory is told by Linux")
def test_a_set_several_times_the_cap_is_trained_on_within_it(tmp_path: Path) -> None:
    counts, draw = {"train": 12_000, "test": 300}, np.random.default_rng(0)
    sets = {f"x_{part}": draw.integers(0, 256, (n, 3, 32, 32), np.uint8) for part, n in counts.items()}
    labels = {f"y_{part}": np.arange(n) % 7 for part, n in counts.items()}
    np.savez(tmp_path / "large.npz", **sets, **labels)  # 36 MiB, and as much of signs for each of two members
    # Freed memory goes back at once, whatever the sizes before it were: what is left is what is held.
    own = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "large.npz")],
        capture_output=True, text=True, check=True, env=os.environ | own,
    )  # fmt: skip
    streamed, grown, predicted = done.stdout.split()[-3:]
    assert streamed == "True"
    assert float(predicted) <= 32
    assert float(grown) <= 32
