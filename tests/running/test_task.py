"""Tasks and executors: a task gives the same rows anywhere, and a run the same files in whatever order they come."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
import torch

from atras.errors import InputError
from atras.evaluation import Rows
from atras.experiment import EXECUTORS, Execution
from atras.kernels.step import checks
from atras.networks import Candidate
from atras.results import Results
from atras.running import GroupTask, LocalExecutor, Outcome, Surroundings, make_plan, run
from atras.testing import SMALL, tables_of

ROOT = Path(__file__).parents[2]
ENGINES = ("loop", "stack", "fused")
MORE = SMALL.replace(
    candidates=tuple(map(Candidate.parse, ("8", "12", "6-8", "8-6", "6-8-6"))), seeds=(0, 3), transfer=True
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def weights_of(folder: Path) -> dict[str, bytes]:
    """The networks' files."""
    return {path.name: path.read_bytes() for path in (folder / "weights").iterdir()}


def shown(rows: Rows) -> dict[str, str]:
    """Every digit of a group's rows, but for the seconds that they took."""
    timings = [{**row, "seconds": None} for row in rows.timings]
    return {name: repr(values) for name, values in vars(rows).items()} | {"timings": repr(timings)}


ELSEWHERE = """
import pickle, sys
from atras.running.surroundings import surroundings_of
tasks = [pickle.loads(task) for task in pickle.load(sys.stdin.buffer)]
pickle.dump([task.run(surroundings_of(task)) for task in tasks], sys.stdout.buffer)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_task_gives_the_same_rows_in_a_process_that_has_nothing_else(engine: str, tmp_path: Path) -> None:
    tasks: list[bytes] = []
    expected: list[Rows] = []

    class Noting(LocalExecutor):
        """Keeps what is computed."""

        name = "noting"

        def map(self, tasks_: Sequence[GroupTask], place: Surroundings) -> Iterator[Outcome]:
            for outcome in super().map(tasks_, place):
                assert outcome.rows is not None
                tasks.append(pickle.dumps(outcome.task))
                expected.append(outcome.rows)
                yield outcome

    EXECUTORS.register(Noting)
    try:
        for defence in ("copies", "copies(source=smallest)"):
            protocol = SMALL.replace(defence=defence, attacks=("fgsm", "pgd(steps=3, restarts=2)"))
            run(protocol, Execution(engine=engine, executor="noting", device="cpu"), out=tmp_path / defence)
    finally:
        EXECUTORS.unregister("noting")
    before = [weights_of(tmp_path / defence) for defence in ("copies", "copies(source=smallest)")]
    for path in tmp_path.glob("*/weights/*"):
        path.unlink()
    child = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=pickle.dumps(tasks),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()
    found: list[Rows] = pickle.loads(child.stdout)  # noqa: S301 (our own child's)
    assert len(found) == len(expected) >= 2
    assert list(map(shown, found)) == list(map(shown, expected))
    assert [weights_of(tmp_path / defence) for defence in ("copies", "copies(source=smallest)")] == before


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_is_the_same_in_whatever_order_its_groups_come(engine: str, tmp_path: Path) -> None:
    orders: list[list[int]] = []

    class Shuffled(LocalExecutor):
        """The last group first, then the others at random."""

        name = "shuffled"

        def map(self, tasks: Sequence[GroupTask], place: Surroundings) -> Iterator[Outcome]:
            others = Random(len(orders)).sample(tasks[:-1], len(tasks) - 1)  # noqa: S311
            orders.append([task.index for task in (tasks[-1], *others)])
            return super().map([tasks[-1], *others], place)

    memory = 2**20 if engine == "fused" else None
    whole = run(MORE, Execution(engine=engine, device="cpu", memory_bytes=memory), out=tmp_path / "whole")
    EXECUTORS.register(Shuffled)
    try:
        execution = Execution(engine=engine, executor="shuffled", device="cpu", memory_bytes=memory)
        found = run(MORE, execution, out=tmp_path / "found")
    finally:
        EXECUTORS.unregister("shuffled")
    groups = len(whole.run["plan"]["groups"])
    assert groups >= 3
    assert orders[0] != sorted(orders[0]) == list(range(groups))
    assert tables_of(tmp_path / "found") == tables_of(tmp_path / "whole")
    assert weights_of(tmp_path / "found") == weights_of(tmp_path / "whole")
    assert found.transfer.equals(whole.transfer)
    assert (found.run["plan"], found.run["finished_groups"]) == (whole.run["plan"], list(range(groups)))


def test_rows_of_every_frame_carry_the_hash_of_the_run(tmp_path: Path) -> None:
    # The protocol leaves the precision open, and so hashes otherwise than the one that is computed.
    for protocol in (MORE, MORE.replace(precision="fp32")):
        results: Results = run(protocol, Execution(engine="stack", device="cpu"))
        for frame in (results.transfer, results.metrics):
            assert frame["protocol_hash"].unique().to_list() == [results.run["protocol_hash"]] == [protocol.hash]


def test_a_choice_of_executor_is_checked() -> None:
    with pytest.raises(ValueError, match=r"executor \(='noting'\): expected one of local"):
        Execution(executor="noting")


def test_auto_and_the_plan_know_the_defences_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MOST_PATCHES", 20)  # else engine fused takes these convolutions
    protocol = SMALL.replace(defence="copies(source=c3k3)", stem="none")
    assert make_plan(protocol, Execution()).engine == "fused"  # of the others
    assert run(protocol, Execution()).run["status"] == "finished"  # engine loop has trained the source
    with pytest.raises(InputError, match=r"engine \(=fused\): .*expected at most 20 values"):
        make_plan(protocol, Execution(engine="fused"))
    with pytest.raises(InputError, match=r"defence \(='copies\(source=c3k99\)'\): its source does not fit"):
        make_plan(SMALL.replace(defence="copies(source=c3k99)"), Execution())


def test_a_batch_of_all_images_is_that_of_any_larger_number() -> None:
    protocol, where = SMALL.replace(candidates=SMALL.candidates[:1], epochs=1), Execution(engine="fused", device="cpu")
    own, larger = (run(protocol.replace(batch_size=size), where).table for size in (120, 10**6))
    assert own.equals(larger)  # 60 images and their copies
    with pytest.raises(InputError, match="axis: batch_size=120 and batch_size=1000000 do the same"):
        make_plan(protocol.replace(axes={"batch_size": (16, 120, 10**6)}), where)
