"""Runs that are killed at any moment and gone on with give, bit for bit, what they would have given."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = ("table.parquet", "table.csv", "metrics.parquet", "history.parquet")
PROTOCOL = {
    "dataset": "digits", "train_size": 300, "test_size": 100, "hidden": ["16", "24", "8,16", "16,8"], "seeds": 0,
    "epochs": 1, "batch_size": 64, "evaluate_every": 1, "head_dropout": 0.25,
}  # fmt: skip

BUDGET = 36
SEARCHED = PROTOCOL | {"epochs": 4}
"""Searched within the budget by rounds of four, two and one candidate."""


class Server:
    """The process that forks the runs."""

    def __init__(self, cache: Path) -> None:
        environment = os.environ | {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("server.py"))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.errors: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        for target, stream in ((self.lines.put, self.process.stdout), (self.errors.append, self.process.stderr)):
            threading.Thread(target=lambda t=target, s=stream: [t(line) for line in s], daemon=True).start()
        assert self.lines.get(timeout=300) == "ready\n"

    def run(
        self,
        directory: Path,
        engine: str,
        delay: float | None,
        budget: int | None = None,
        kill: tuple[str, str, int] | None = None,
    ) -> int:
        """Start or go on with a run or a search; kill it after a delay or at a call; return its exit status."""
        resume = (directory / ("run.json" if budget is None else "search.json")).exists()
        request = {
            "directory": str(directory), "resume": resume, "budget": budget, "kill": kill,
            "protocol": PROTOCOL if budget is None else SEARCHED,
            "execution": {"engine": engine, "checkpoint_every": "0", "device": "cpu"},
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        pid = int(self.lines.get(timeout=120))
        try:
            return int(self.lines.get(timeout=delay or 120))
        except queue.Empty:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(pid, signal.SIGKILL)
        return int(self.lines.get(timeout=120))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    server = Server(tmp_path_factory.mktemp("cache"))
    yield server
    server.close()


@pytest.mark.parametrize("engine", ["fused", "stack", "loop"])
def test_a_run_killed_again_and_again_ends_with_the_same_files(
    engine: str, long: bool, server: Server, tmp_path: Path, count: Callable[..., None]
) -> None:
    whole = tmp_path / "whole"
    begin = time.perf_counter()
    assert server.run(whole, engine, None) == 0, server.errors
    duration = time.perf_counter() - begin
    kills, draw = 0, random.Random(None if long else 0)  # noqa: S311
    while kills < (200 if long else 10):
        folder = tmp_path / "killed"
        # Often enough late, that a run comes to its end.
        while (status := server.run(folder, engine, draw.uniform(0, 1.2) * duration)) == -signal.SIGKILL:
            kills += 1
        assert status == 0, server.errors
        for name in [*TABLES, *(f"weights/{path.name}" for path in (whole / "weights").iterdir())]:
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
        run = json.loads((folder / "run.json").read_text())
        assert (run["status"], run["finished_groups"]) == ("finished", list(range(len(run["plan"]["groups"]))))
        assert left(folder) == left(whole)
        shutil.rmtree(folder)
    count("kills survived", kills)


@pytest.fixture(scope="module")
def searched(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], float]:
    """A folder that is free again, what an uninterrupted search left in it, and its seconds."""
    folder = tmp_path_factory.mktemp("searched") / "search"
    begin = time.perf_counter()
    assert server.run(folder, "stack", None, BUDGET) == 0, server.errors
    seconds = time.perf_counter() - begin
    content = found_by(folder)
    assert len(content) > len(TABLES) * 2
    shutil.rmtree(folder)
    return folder, content, seconds


def found_by(folder: Path) -> dict[str, bytes]:
    """What must be equal however a search came to its end. (In another folder its protocols would differ by a path.)"""
    paths = [folder / "search.json", folder / "selection.npz", *folder.glob("round-*/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name in (*TABLES, *OWN)}


OWN = ("search.json", "selection.npz")
STAGES = {
    "before search.json is there": ("atras.storage.atomic_write", "_write_all", 1),
    "while selection.npz is written": ("atras.storage.atomic_write", "_write_all", 2),
    "between a round's folder and its run.json": ("atras.storage.atomic_write", "_write_all", 3),
    "after the first round, before search.json says so": ("atras.search.halving", "Record.add", 1),
    "between two rounds": ("atras.running.orchestrator", "prepare", 2),
    "after the last round, before search.json says so": ("atras.search.halving", "Record.add", 3),
}


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_a_search_killed_at_any_stage_ends_with_the_same_files(
    stage: str, server: Server, searched: tuple[Path, dict[str, bytes], float], count: Callable[..., None]
) -> None:
    folder, whole, _ = searched
    try:
        assert server.run(folder, "stack", None, BUDGET, STAGES[stage]) == -signal.SIGKILL, server.errors
        assert server.run(folder, "stack", None, BUDGET) == 0, server.errors
        assert found_by(folder) == whole
        assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    count("kills survived")


def test_a_search_killed_again_and_again_ends_with_the_same_files(
    long: bool, server: Server, searched: tuple[Path, dict[str, bytes], float], count: Callable[..., None]
) -> None:
    folder, whole, seconds = searched
    kills, draw = 0, random.Random(None if long else 0)  # noqa: S311
    while kills < (100 if long else 5):
        try:
            while server.run(folder, "stack", draw.uniform(0, 1.0) * seconds, BUDGET) == -signal.SIGKILL:
                kills += 1
            assert found_by(folder) == whole, server.errors
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    count("kills survived", kills)


def left(folder: Path) -> set[str]:
    """Every file and folder, but for the lock, which nobody removes where a run is killed after its last write."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - {".lock"}
