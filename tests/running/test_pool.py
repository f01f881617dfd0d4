"""Workers, whatever they run on: what becomes of groups whose worker is lost, is unlike the run's, or has no memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from atras import Callback
from atras.errors import InputError, Interrupted
from atras.experiment import EXECUTORS, Execution, Protocol
from atras.loggers import EpochRow
from atras.results import Results
from atras.running import DataPlace, GroupTask, Reporter, Surroundings, Task, resume, run
from atras.running.executors.link import Link
from atras.running.executors.pool import End, Message, Pool, PoolExecutor, _longest_first
from atras.running.executors.worker import Job, Kind, Result, _loaded, compute_elsewhere
from atras.running.origins import Origins
from atras.running.transfer_task import TransferTask
from atras.testing import SMALL, tables_of
from atras.training import epochs

pytestmark = pytest.mark.usefixtures("shared_cache")
Turn = Callable[[Any, int], End | None]


class Near(Link):
    """A line within one process."""

    def __init__(self, stop: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._stop = stop

    def send(self, events: list[Any], files: dict[str, bytes]) -> bool:
        return False

    def asked_to_stop(self) -> bool:
        return self._stop()

    def _exchange(self) -> None:  # at once, whatever the time
        self.look()
        self._stopped = self._stopped or self.asked_to_stop()

    def fetch(self, path: Path) -> bytes | None:
        return path.read_bytes() if path.exists() else None


class NearPool(Pool):
    """One worker, this process.

    Args:
        turn: says what becomes of a task instead of being computed.
        lock: that the run is said to hold; None for its own.
        calls: after so many calls a task is asked to stop; None for never.
    """

    def __init__(self, turn: Turn, lock: str | None, calls: int | None) -> None:
        self.turn, self.lock = turn, lock
        self.calls = iter([False] * calls if calls is not None else [])
        self.started: list[tuple[Task, int]] = []
        self.order: list[int] = []
        self.counted = calls is not None

    def begin(self, job: Job) -> None:
        self.job = job if self.lock is None else dataclasses.replace(job, lock=self.lock)

    def room(self) -> bool:
        return not self.started

    def start(self, task: Task, attempt: int) -> None:
        self.started.append((task, attempt))
        self.order.append(task.index)

    def wait(self, seconds: float) -> list[End]:
        if not self.started:
            return []
        task, attempt = self.started.pop()
        end = self.turn(task, attempt)
        return [end or End(task.index, compute_elsewhere(task, self.job, Near(lambda: next(self.calls, self.counted))))]

    def messages(self, seconds: float = 0.0) -> list[Message]:
        return []

    def stop(self) -> None:
        self.counted = True

    def leave_out(self, result: Result) -> None:
        self.left_out = result.where

    def close(self) -> None:
        self.started = []


@pytest.fixture
def on_workers(tmp_path: Path) -> Iterator[Callable[..., Results]]:
    """Run a protocol on such a pool."""
    pools: list[NearPool] = []
    wishes: dict[str, Any] = {}

    class NearExecutor(PoolExecutor):
        """In this process."""

        name = "near"

        def make_pool(self, task: Task, place: Surroundings) -> Pool:
            pools.append(NearPool(wishes["turn"], wishes["lock"], wishes.pop("calls", None)))
            return pools[-1]

    EXECUTORS.register(NearExecutor)

    def go(
        turn: Turn = lambda *_: None,
        lock: str | None = None,
        calls: int | None = None,
        protocol: Protocol = SMALL,
        **options: Any,
    ) -> Results:
        wishes.update(turn=turn, lock=lock, calls=calls)
        execution = Execution(executor="near", device="cpu", engine="fused", checkpoint_every=0)
        results = run(protocol, execution, out=tmp_path / "run", **options)
        assert pools[-1].order
        return results

    yield go
    EXECUTORS.unregister("near")


@pytest.fixture(scope="module")
def whole(shared_cache: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(SMALL, Execution(device="cpu", engine="fused"), out=folder)
    return tables_of(folder)


class Noting(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.resumed: list[int] = []
        self.shares: list[float] = []

    def part(self, name: str, share: float) -> None:
        assert name == "transfer"
        self.shares.append(share)

    def group_resumed(self, index: int, steps_done: int) -> None:
        self.resumed.append(steps_done)

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_lost_worker_is_recorded_and_its_group_goes_on(
    on_workers: Callable[..., Results], whole: dict[str, bytes], tmp_path: Path
) -> None:
    reporter = Noting()
    results = on_workers(
        lambda task, attempt: End(task.index, None, "gone") if attempt < 3 and task.index == 0 else None,
        reporter=reporter,
    )
    assert [(loss["group"], loss["attempt"], loss["reason"]) for loss in results.run["losses"]] == [
        (0, 1, "gone"), (0, 2, "gone")
    ]  # fmt: skip
    assert sum("worker lost (gone); another one goes on" in note for note in reporter.notes) == 2
    assert tables_of(tmp_path / "run") == whole
    assert results.run["splits"] == []


def test_callbacks_hear_of_each_epoch_of_workers_as_it_ends(
    on_workers: Callable[..., Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[EpochRow] = []
    told: list[str] = []

    class Listener(Callback):
        def epochs(self, rows: Sequence[EpochRow]) -> None:
            heard.extend(rows)

    tell = Near.tell
    monkeypatch.setattr(Near, "tell", lambda self, name, *rest: (told.append(name), tell(self, name, *rest)))
    results = on_workers(callbacks=[Listener()])
    assert told.count("epochs") > len(results.run["plan"]["groups"])
    assert len(heard) == len({(row.member, row.phase, row.epoch) for row in heard}) == len(results.history)


def test_the_longest_come_first_and_the_first_of_equals() -> None:
    tasks: list[Any] = [SimpleNamespace(index=i, predicted_seconds=s, flops=f, makes=()) for i, s, f in
                        ((0, 1.0, 3), (1, 5.0, 1), (2, 5.0, 2), (3, 2.0, 9))]  # fmt: skip
    assert [task.index for task in sorted(tasks, key=_longest_first(tasks))] == [1, 2, 3, 0]
    tasks[0].predicted_seconds = None  # no speed was measured
    assert [task.index for task in sorted(tasks, key=_longest_first(tasks))] == [3, 0, 2, 1]
    tasks[1].makes = ("what others need",)
    assert [task.index for task in sorted(tasks, key=_longest_first(tasks))] == [1, 3, 0, 2]


def test_a_worker_that_finds_other_images_than_the_run_says_so() -> None:
    task: Any = SimpleNamespace(data=DataPlace.of(SMALL, Execution(device="cpu")), device=torch.device("cpu"))
    there = task.data.load(task.device)
    job: Any = SimpleNamespace(arrays=None, data=there)
    assert _loaded(task, job).sha256 == there.sha256
    job.data = dataclasses.replace(there, sha256=dict.fromkeys(there.sha256, "0" * 64))
    with pytest.raises(InputError, match=r"^digits: expected on .* the data of the run, found others in .*same files"):
        _loaded(task, job)


@pytest.mark.parametrize(("memory", "reason"), [(True, "too large"), (False, "3 workers lost at the same place")])
def test_a_group_that_costs_its_workers_is_halved(
    memory: bool, reason: str, on_workers: Callable[..., Results], whole: dict[str, bytes], tmp_path: Path
) -> None:
    results = on_workers(
        lambda task, _: End(task.index, None, "too large", memory) if len(task.group.members) > 1 else None
    )
    assert reason in results.run["splits"][0]["reason"]
    assert all(len(group["members"]) == 1 for group in results.run["plan"]["groups"])
    assert tables_of(tmp_path / "run") == whole


def test_a_member_that_costs_all_its_workers_ends_the_run(on_workers: Callable[..., Results]) -> None:
    with pytest.raises(InputError, match=r"expected a worker to finish it, but 3 workers lost at the same place"):
        on_workers(lambda task, _: End(task.index, None, "gone") if len(task.group.members) == 1 else
                   End(task.index, None, "too large", memory=True))  # fmt: skip


def test_another_version_is_refused_by_name_and_another_processor_left_out(
    on_workers: Callable[..., Results], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = Noting()
    results = on_workers(
        lambda task, attempt: End(task.index, Result("node7", instructions="avx2")) if attempt == 1 else None,
        reporter=reporter,
    )
    assert any(
        note.startswith("node7: left out, its processor has other instructions (avx2)") for note in reporter.notes
    )
    assert "losses" not in results.run
    assert tables_of(tmp_path / "run") == whole
    here = Kind.here()
    other = Kind({**here.versions, "torch": "1.0"}, here.instructions)
    assert here.differs(other) == f"torch 1.0 instead of {here.versions['torch']}"
    monkeypatch.setattr("atras.running.executors.worker._kind", lambda: other)
    with pytest.raises(InputError, match=r"process \d+: expected the versions of .*, found torch 1.0"):
        run(SMALL, Execution(executor="near", device="cpu"), out=tmp_path / "other")


def test_a_worker_without_the_runs_folder_sends_what_it_writes(
    on_workers: Callable[..., Results], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0)
    with pytest.raises(Interrupted):
        on_workers(lock="another folder's", calls=6)
    (_,) = (tmp_path / "run" / "checkpoint").iterdir()
    noting = Noting()
    results = resume(tmp_path / "run", reporter=noting)
    assert noting.resumed
    assert results.run["status"] == "finished"
    assert tables_of(tmp_path / "run") == whole
    assert len(list((tmp_path / "run" / "weights").iterdir())) == 2 * len(results.run["plan"]["groups"])
    assert not (tmp_path / "run" / "checkpoint").exists()


PAIRS = SMALL.replace(transfer=True, attacks=("pgd(steps=2, surrogate=losses(8+undefended))",))


@pytest.fixture(scope="module")
def pairs(shared_cache: None) -> Results:
    return run(PAIRS, Execution(device="cpu", engine="fused"))


def in_transfer(task: Task) -> bool:
    return not isinstance(task, GroupTask)


@pytest.mark.parametrize("lock", [None, "another folder's"])
def test_workers_try_networks_on_each_others_images(
    lock: str | None, on_workers: Callable[..., Results], pairs: Results, tmp_path: Path
) -> None:
    losses, reporter = [2], Noting()

    def losing(task: Task, _: int) -> End | None:
        if in_transfer(task) and losses[0]:
            losses[0] -= 1
            return End(task.index, None, "gone")
        return None

    results = on_workers(losing, lock, protocol=PAIRS, reporter=reporter)
    assert results.transfer.equals(pairs.transfer)
    assert results.run["warnings"] == pairs.run["warnings"]
    assert [(loss["group"], loss["phase"], loss["attempt"]) for loss in results.run["losses"]] == [
        (None, "transfer", 1), (None, "transfer", 2)
    ]  # fmt: skip
    assert any(note.startswith("transfer, pgd on ") and "goes on with it" in note for note in reporter.notes)
    assert reporter.shares == sorted(reporter.shares)
    assert (reporter.shares[0], reporter.shares[-1]) == (0.0, 1.0)
    assert len(set(reporter.shares)) > 3
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_networks_stay_in_a_process_from_one_part_of_the_transfer_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, made = SMALL.replace(transfer=True, seeds=(0, 1)), list[Any]()
    engine = Origins._engine
    monkeypatch.setattr(Origins, "_engine", lambda self, group: (made.append(group.members), engine(self, group))[1])
    results = run(protocol, Execution(device="cpu", engine="loop"))
    assert len(results.transfer) == 2 * 2 * len(protocol.candidates) ** 2
    assert len(made) == len(set(made)) == 2 * len(protocol.candidates)


def test_a_transfer_that_was_stopped_on_workers_goes_on_elsewhere(
    on_workers: Callable[..., Results], pairs: Results, tmp_path: Path
) -> None:
    stopped: list[int] = []

    def third(task: Task, _: int) -> End | None:
        stopped.extend([task.index] if in_transfer(task) else [])
        return End(task.index, Result("", interrupted=True)) if len(stopped) > 2 else None

    with pytest.raises(Interrupted):
        on_workers(third, protocol=PAIRS)
    assert len(list((tmp_path / "run" / "checkpoint").glob("transfer-*"))) == 2
    made: list[Any] = []
    run_task = TransferTask.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransferTask, "run", lambda task, place: (made.append(task.numbers), run_task(task, place))[1])
        results = resume(tmp_path / "run", execution=Execution(device="cpu", engine="fused"))
    assert results.transfer.equals(pairs.transfer)
    assert 0 < sum(map(len, made)) < len(pairs.transfer)  # what workers had done is not done again
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_transfer_that_costs_its_workers_goes_on_in_smaller_parts(
    on_workers: Callable[..., Results], pairs: Results
) -> None:
    def short(task: Task, _: int) -> End | None:
        large = isinstance(task, TransferTask) and (task.cap or max(len(part.members) for part in task.parts) > 1)
        return End(task.index, None, "too large", memory=True) if large else None

    results = on_workers(short, protocol=PAIRS)
    assert results.transfer.equals(pairs.transfer)
    assert {(split["group"], split["phase"], split["reason"]) for split in results.run["splits"]} == {
        (None, "transfer", "too large")
    }
    assert len(results.run["splits"]) > 1


def test_a_run_in_memory_has_the_networks_of_its_workers(on_workers: Callable[..., Results]) -> None:
    on_workers()
    protocol = SMALL.replace(transfer=True)
    execution = Execution(executor="near", device="cpu", engine="fused")
    found, local = run(protocol, execution), run(protocol, Execution(device="cpu", engine="fused"))
    assert len(local.transfer)
    assert found.transfer.equals(local.transfer)
