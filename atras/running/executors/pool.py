"""Executors that have tasks computed by workers: which task is next, what is told, and what becomes of a lost one."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from atras.errors import InputError, Interrupted
from atras.evaluation import Row
from atras.running.unit import Surroundings, Task
from atras.storage import write_file
from atras.torch_state import threads
from atras.training import FOLDER, checkpoint

from .executor import AnyTask, Executor, Outcome
from .link import Event
from .worker import EPOCHS, SPLIT, Job, Result

SECONDS_BETWEEN_LOOKS = 0.1
"""How often it is asked whether to stop."""

SECONDS_TO_ARRIVE = 5.0
"""Time that what is told of a task has, when the task has ended."""

MOST_LOSSES = 3
"""Workers that a group may lose without getting any further between."""

SECONDS_TO_STOP = 600.0
"""Time that workers have to write checkpoints when a run stops."""


class End(NamedTuple):
    """A task that a worker has no more.

    Args:
        group: its number.
        result: None where the worker was lost.
        reason: of the loss.
        memory: whether the worker was ended for its memory.
    """

    group: int
    result: Result | None
    reason: str = ""
    memory: bool = False


class Message(NamedTuple):
    """Something that a worker tells of a task under way."""

    group: int
    attempt: int
    events: Sequence[Event]
    files: dict[str, bytes]


class Pool(ABC):
    """Workers, each of which computes one task at a time."""

    @abstractmethod
    def begin(self, job: Job) -> None:
        """All tasks that are started from now on are of this job."""

    @abstractmethod
    def room(self) -> bool:
        """Whether a further task may be started.

        Raises:
            InputError: if no worker can ever be had.
        """

    @abstractmethod
    def start(self, task: Task, attempt: int) -> None:
        """Have a task computed; `attempt` tells its messages from those of a lost worker."""

    @abstractmethod
    def wait(self, seconds: float) -> list[End]:
        """The tasks that ended, as soon as one has or the time is over."""

    @abstractmethod
    def messages(self, seconds: float = 0.0) -> list[Message]:
        """What came since it was last asked; all that was told before now, if that comes in this time."""

    @abstractmethod
    def stop(self) -> None:
        """Ask all workers to stop, with a checkpoint."""

    @abstractmethod
    def leave_out(self, result: Result) -> None:
        """Start nothing more on the machine that this result came from."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""


class PoolExecutor(Executor):
    """The base class of executors whose tasks are computed by workers."""

    _pool: Pool | None = None
    _job: _Of | None = None

    @abstractmethod
    def make_pool(self, task: Task, place: Surroundings) -> Pool:
        """Workers for tasks like this one."""

    def map(self, tasks: Sequence[AnyTask], place: Surroundings) -> Iterator[Outcome[AnyTask]]:
        if place.stop():
            raise Interrupted
        if self._pool is None:
            self._pool = self.make_pool(tasks[0], place)
        if (of := _Of(tasks[0], place)) != self._job:
            self._job = of
            self._pool.begin(Job.of(tasks[0], place, threads().amount))
        yield from _Map(self._pool, tasks, place).outcomes()

    def close(self) -> None:
        pool, self._pool, self._job = self._pool, None, None
        if pool is not None:
            pool.close()


class _Of:
    """What a job is of: divided groups come in a map of their own, of the same; those of another run do not."""

    def __init__(self, task: Task, place: Surroundings) -> None:
        read = place.networks if task.reads_networks and task.folder is None else None
        self._same, self._folder = (place.data, read), task.folder

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Of) or self._folder != other._folder:
            return False
        return all(a is b for a, b in zip(self._same, other._same, strict=True))

    __hash__ = None  # type: ignore[assignment]


@dataclass
class _Attempts:
    """How often a task was started, and how far it came."""

    task: Any
    started: int = 0
    losses: int = 0
    reached: tuple[float, float] = (0.0, 0.0)
    reached_before: tuple[float, float] = field(default=(-1.0, 0.0))


class _Map:
    """Tasks on their way through a pool."""

    def __init__(self, pool: Pool, tasks: Sequence[Task], place: Surroundings) -> None:
        self.pool, self.place = pool, place
        self.waiting = sorted(tasks, key=_longest_first(tasks))
        self.missing = {task.makes for task in tasks if task.makes}
        self.running: dict[int, _Attempts] = {}
        self.known = {task.index: _Attempts(task) for task in tasks}
        self.ending: Exception | None = None
        self.give_up = float("inf")

    def outcomes(self) -> Iterator[Outcome[Any]]:
        """Of all tasks, or of those that end before the run stops."""
        while self.running or (self.waiting and self.ending is None):
            if self.ending is None and self.place.stop():
                self.end(Interrupted())
            while self.ending is None and (task := self.next()) is not None and self.pool.room():
                self.waiting.remove(task)
                self.start(task)
            ended = self.pool.wait(SECONDS_BETWEEN_LOOKS)
            self.hear(SECONDS_TO_ARRIVE if ended else 0.0)
            for each in ended:
                if (outcome := self.ended(each)) is not None:
                    yield outcome
            if time.monotonic() > self.give_up:
                break
        if self.ending is not None:
            raise self.ending

    def next(self) -> Task | None:
        """The first task that waits for nothing but a worker."""
        return next((task for task in self.waiting if not self.missing & task.needs), None)

    def end(self, error: Exception) -> None:
        """Have all workers stop; the error is raised when they have."""
        if self.ending is None:
            self.ending = error
            self.give_up = time.monotonic() + SECONDS_TO_STOP
            self.pool.stop()

    def start(self, task: Task) -> None:
        attempts = self.running[task.index] = self.known[task.index]
        attempts.started += 1
        first = self.place.first.held
        held = {key: first[key] for key in task.needs if key in first}
        self.pool.start(replace(task, held=held) if held else task, attempts.started)

    def hear(self, seconds: float) -> None:
        """Hand on what workers tell."""
        for message in self.pool.messages(seconds):
            attempts = self.running.get(message.group)
            if attempts is not None and attempts.started == message.attempt:
                self.take(attempts, message.events, message.files)

    def take(self, attempts: _Attempts, events: Sequence[Event], files: dict[str, bytes]) -> None:
        to_run = {EPOCHS: self.place.epochs, SPLIT: self.place.split}
        for name, arguments in events:
            if (told := to_run.get(name)) is not None:
                told(*arguments)
                continue
            getattr(self.place.reporter, name)(*arguments)
            attempts.reached = max(attempts.reached, _place_of(name, arguments, attempts.reached))
        folder = attempts.task.folder
        if folder is not None:
            for name, content in files.items():
                write_file(_below(folder, name), [content])

    def ended(self, end: End) -> Outcome[Any] | None:
        """What became of a task; None where it is started again, or the run ends."""
        attempts = self.running.pop(end.group)
        result = end.result
        if result is None:
            return self.lost(attempts, end)
        self.take(attempts, result.events, result.files)
        for (phase, member), parameters in result.networks.items():
            self.place.networks.put(phase, [member], None, {member: parameters})
        self.place.first.held.update(result.first)
        if result.rows is not None:
            self.missing.discard(attempts.task.makes)
        if result.rows is not None or result.shortage:
            return Outcome(attempts.task, result.rows, result.shortage)
        if result.differs:
            found = f"expected the versions of the run's own process, found {result.differs}; install the same"
            self.end(InputError(f"{result.where}: {found}"))
        elif result.instructions:
            self.place.reporter.note(
                f"{result.where}: left out, its processor has other instructions ({result.instructions}), and so would "
                "compute other numbers"
            )
            self.pool.leave_out(result)
            self.waiting.insert(0, attempts.task)
        elif result.error:
            self.end(InputError(result.error))
        else:
            self.end(Interrupted())
        return None

    def lost(self, attempts: _Attempts, end: End) -> Outcome[Any] | None:
        """Start a task again whose worker is gone, or have it divided."""
        task: Task = attempts.task
        further = attempts.reached > attempts.reached_before
        attempts.losses = 1 if further else attempts.losses + 1
        attempts.reached_before = attempts.reached
        loss: Row = {**task.record, "attempt": attempts.started, "reason": end.reason}
        self.place.lost(loss)
        if self.ending is not None:
            return None
        if end.memory:
            return Outcome(task, None, end.reason)
        if attempts.losses < MOST_LOSSES:
            self.place.reporter.note(f"{task.label}: worker lost ({end.reason}); another one goes on with it")
            self.waiting.insert(0, task)
            return None
        reason = f"{attempts.losses} workers lost at the same place, the last one: {end.reason}"
        if task.divisible:
            return Outcome(task, None, reason)
        self.end(InputError(f"{task.label}: expected a worker to finish it, but {reason}; see what ends them"))
        return None


def _longest_first(tasks: Sequence[Task]) -> Callable[[Task], tuple[bool, float, int]]:
    """What others wait for comes before all else."""
    if any(task.predicted_seconds is None for task in tasks):
        return lambda task: (not task.makes, -float(task.flops), task.index)
    return lambda task: (not task.makes, -float(task.predicted_seconds or 0.0), task.index)


def _place_of(name: str, arguments: tuple[object, ...], before: tuple[float, float]) -> tuple[float, float]:
    """How far a task has come, by an event: its steps, then its share of an attack."""
    if name == "part":
        return (before[0], float(str(arguments[1])))
    if name == "group_resumed":
        _, steps = arguments
        return (float(str(steps)), 0.0)
    if name == "progress":
        return (float(str(arguments[2])), 0.0)
    return (before[0], float(str(arguments[3]))) if name == "attacking" else before


def _below(folder: Path, name: str) -> Path:
    """The place of a worker's file in the run's folder.

    Raises:
        InputError: if it is none that a worker writes.
    """
    path = PurePosixPath(name)
    if path.parent.name in (FOLDER, checkpoint.FOLDER) and len(path.parts) == 2 and path.suffix == ".safetensors":
        return folder / path
    raise InputError(f"{name!r}: expected a checkpoint or a file of networks from a worker; look into its machine")
