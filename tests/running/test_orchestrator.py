"""Whole runs: equal runs give equal files, engines agree, plans repeat, bad requests change nothing."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import atras
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.running.orchestrator import run
from atras.running.prepare import make_plan
from atras.running.progress import Reporter

SMALL = Protocol(
    candidates=(Candidate((16,)), Candidate((8, 16)), Candidate((16, 8))), epochs=2, adversarial_epochs=1, seeds=(0, 1)
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_two_runs_of_one_protocol_write_identical_tables(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(SMALL, out=tmp_path / name)
    for file in ("table.parquet", "table.csv", "metrics.parquet", "history.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


@pytest.mark.parametrize(
    "epochs",
    [
        pytest.param(1, id="one epoch"),
        pytest.param(20, id="the whole preset", marks=pytest.mark.slow),
    ],
)
def test_the_whole_digits_table_in_float64_is_the_same_from_loop_and_stack(epochs: int) -> None:
    protocol = Protocol(precision="fp64", epochs=epochs, adversarial_epochs=epochs)
    tables = [run(protocol, Execution(engine=engine)).table for engine in ("loop", "stack")]  # type: ignore[arg-type]
    loop, stack = (table.select(pl.col("^.*_accuracy.*$")).to_numpy() for table in tables)
    sizes = np.array([898 if "train" in name else 899 for name in tables[0].select(pl.col("^.*_accuracy.*$")).columns])
    sizes[[name == "adversarial_train_accuracy" for name in tables[0].select(pl.col("^.*_accuracy.*$")).columns]] *= 2
    assert tables[0].height == 40
    assert np.abs((loop - stack) * sizes).max() <= 1 + 1e-6


def test_results_hold_what_was_run_and_can_be_read_again(tmp_path: Path) -> None:
    results = run(SMALL, out=tmp_path / "run", startup_seconds=1.5)
    again = atras.read(tmp_path / "run")
    assert again.table.equals(results.table)
    assert again.table["hidden_layers"].to_list() == ["16", "16", "8-16", "8-16", "16-8", "16-8"]
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["protocol_hash"] == SMALL.hash
    assert info["data"]["status"] == "bundled"
    assert info["environment"]["kernels"]["cpu"]["available"] in (True, False)
    assert info["timings"]["startup_seconds"] == 1.5
    seconds = info["timings"]["seconds_at"]
    assert info["timings"]["run_seconds"] == pytest.approx(sum(seconds.values()))
    assert all((value > 0) == (name != "transfer") for name, value in seconds.items())
    assert seconds["groups"] >= results.timings["seconds"].sum()
    assert again.metrics["protocol_hash"].unique().to_list() == [SMALL.hash]
    assert (again.metrics["accuracy"] >= again.metrics["ci_low"]).all()


def test_a_recorded_plan_is_repeated_not_made_anew(tmp_path: Path) -> None:
    first = run(SMALL, Execution(engine="stack", memory_bytes=2**20), out=tmp_path / "first")
    assert len(first.run["plan"]["groups"]) > len(run(SMALL, Execution(engine="stack")).run["plan"]["groups"])
    again = run(SMALL, config_plan=first.run["plan"])
    limits = {"limits": again.run["plan"]["limits"]}  # of this process: the plan is the one made under another cap
    assert again.run["plan"] == first.run["plan"] | limits
    assert again.table.equals(first.table)


def test_splitting_by_memory_changes_accuracies_by_rounding_alone() -> None:
    protocol = SMALL.replace(precision="fp64")
    whole, split = run(protocol).table, run(protocol, Execution(memory_bytes=2**20)).table
    assert whole.select(pl.col("^.*_accuracy.*$")).to_numpy() == pytest.approx(
        split.select(pl.col("^.*_accuracy.*$")).to_numpy(), abs=1 / 800
    )


def test_progress_is_told_from_plan_to_end() -> None:
    class Listener(Reporter):
        def __init__(self) -> None:
            self.heard: list[str] = []
            self.steps: dict[int, int] = {}
            self.total = 0

        def plan(self, lines: list[str]) -> None:
            self.heard.append("plan")

        def group_started(self, index: int, total: int, label: str, members: int, steps: int) -> None:
            self.heard.append(f"start {index + 1}/{total}")
            self.total += steps

        def progress(self, index: int, phase: str, steps_done: int, loss: float | None, accuracy: float | None) -> None:
            self.steps[index] = steps_done

        def group_finished(self, index: int, seconds: float) -> None:
            self.heard.append(f"end {index + 1}")

        def close(self) -> None:
            self.heard.append("close")

    for engine in ("loop", "stack", "fused"):
        listener = Listener()
        run(SMALL, Execution(engine=engine), reporter=listener)  # type: ignore[arg-type]
        assert listener.heard[0] == "plan"
        assert listener.heard[-1] == "close"
        assert [h for h in listener.heard if h.startswith("end")] == [
            f"end {i + 1}" for i in range(len(listener.steps))
        ]
        assert sum(listener.steps.values()) == listener.total


def test_an_occupied_folder_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    run(SMALL, out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(InputError):
        run(SMALL.replace(epochs=1), out=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="expected a GPU of this machine"):
        run(SMALL, Execution(device="cuda:99"))


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATRAS_BACKEND", "abacus")
    with pytest.raises(InputError, match="ATRAS_BACKEND"):
        run(SMALL)


def test_a_target_class_that_the_data_lack_is_refused() -> None:
    with pytest.raises(InputError, match="from 0 to 9"):
        make_plan(SMALL.replace(target="class:10"), Execution())


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def mnist_like(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where MNIST lies: the real one where ATRAS_DATA says so, generated files of the same form otherwise."""
    if os.environ.get("ATRAS_DATA"):
        return os.environ["ATRAS_DATA"]
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    patterns = draw.integers(0, 128, (10, 28, 28))
    for part in ("train", "t10k"):
        labels = draw.integers(0, 10, 500)
        write_idx(folder / f"{part}-images-idx3-ubyte", patterns[labels] + draw.integers(0, 128, (500, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return str(folder)


def test_mnist_from_files_on_a_machine_without_network(mnist_like: str, tmp_path: Path) -> None:
    protocol = Protocol(dataset="mnist", train_size=500, test_size=500, epochs=1, adversarial_epochs=1)
    results = run(protocol, Execution(data_dir=mnist_like, download=False), out=tmp_path / "run")
    assert results.table.height == 40
    assert results.run["model"]["stem"] == "conv2"
    assert results.table["adversarial_test_accuracy"].max() > 0.25  # type: ignore[operator]
