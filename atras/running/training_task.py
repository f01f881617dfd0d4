"""A first training as a task: the networks of a defence's source, from which others learn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from atras.engines import ENGINES
from atras.evaluation import Row, Rows
from atras.experiment import Protocol
from atras.planning import Group, Training, source_parts, tighter
from atras.torch_state import fixed_state
from atras.training import FIRST_PHASE, First, Snapshot, is_first, joined_first, train_first

from .divided import ShortageError, shortage
from .first_trainings import first_path
from .planned_task import PlannedTask, TaskWatcher
from .unit import Surroundings, Task

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class TrainingTask(PlannedTask):
    """A first training that groups need. It has no rows but its timing. Its `index` is below 0, -1 for the first one.

    Args:
        training: which.
    """

    training: Training

    @property
    def planned(self) -> Group:
        return self.training.group

    @property
    def label(self) -> str:
        return self.training.label

    @property
    def record(self) -> Row:
        return {"group": None, "phase": "train", "members": len(self.planned.members)}

    @property
    def divisible(self) -> bool:
        return False  # it goes on in smaller parts by itself

    @property
    def makes(self) -> str:
        return self.training.key

    @property
    def path(self) -> Path | None:
        return first_path(self.folder, self.training.key)

    def run(self, place: Surroundings) -> Rows:
        """Train what is not done yet; the networks are then in `place.first`.

        Raises:
            Interrupted: if the run was asked to stop.
            ShortageError: if there is no memory for one member.
            InputError: if a checkpoint is damaged, or cannot be written.
        """
        start, members = time.perf_counter(), self.planned.members
        if (done := place.first.get(self.training)) is None:
            each = self.protocol.epochs * -(-len(place.data.train) // self.protocol.batch_size)
            place.reporter.group_started(self.index, self.total, self.label, len(members), each)
            found: list[First] = in_parts(self, self.training, place, lambda part: _train(part, self, place))
            done = joined_first(members, found)
            if len(found) > 1:
                place.first.keep(self.training, done.snapshot)
            place.reporter.group_finished(self.index, time.perf_counter() - start)
        timing: Row = {"phase": FIRST_PHASE, "members": len(members), "seconds": done.seconds, "steps": 0}
        return Rows(timings=[timing])


def first_of(training: Training, task: Task, place: Surroundings) -> First:
    """A first training, which is computed here where nobody else has done that.

    Args:
        training: which.
        task: that needs it; it is computed as this one is.
        place: this process.

    Raises:
        Interrupted, ShortageError, InputError: as `TrainingTask.run`.
    """
    if (found := place.first.get(training)) is None:
        TrainingTask(**task.common | {"index": -1}, training=training, total=1).run(place)
        found = place.first.get(training)
    assert found is not None  # noqa: S101 (it was kept)
    return found


def engine_protocol(group: Group, protocol: Protocol) -> Protocol:
    """The protocol of a training, whose engine may have another precision than the run's."""
    return protocol.replace(precision=group.precision)


def in_parts(task: Task, training: Training, place: Surroundings, work: Callable[[Group], Made]) -> list[Made]:
    """Work on the members of a training, all at once or, where memory does not suffice, in smaller parts.

    Raises:
        ShortageError: if there is no memory for one member.
    """
    machine = dataclasses.replace(task.machine, streams=place.data.streamed)
    group, n = training.group, len(place.data.train)
    left = [group]
    if training.source or ENGINES.get(group.engine).one_by_one:
        left = list(source_parts(group.members, group, task.protocol, task.spec, machine, n))
    made: list[Made] = []
    with fixed_state(task.device):
        while left:
            part = dataclasses.replace(left[0], precision=group.precision)
            reason = shortage(partial(_appended, made, work, part))
            if not reason:
                left.pop(0)
                continue
            smaller = tighter(left[:1], task.protocol, task.spec, machine)
            if smaller is None:
                raise ShortageError(
                    f"memory: expected room for {training.label} one seed at a time, found none ({reason}); free some, "
                    "or start anew with a lower --batch-size or --train-size"
                )
            place.reporter.note(f"{training.label}: out of memory ({reason}); goes on in smaller parts")
            members = len(part.members)
            place.split({"group": None, "phase": FIRST_PHASE, "members": members, "reason": reason})
            left[:1] = smaller
    return made


def _appended(made: list[Made], work: Callable[[Group], Made], part: Group) -> None:
    made.append(work(part))


def _train(part: Group, task: TrainingTask, place: Surroundings) -> First:
    """A part of a training, or all of it, from its checkpoint where there is one."""
    own = task.training.of(part)
    keeper = _Keeper(task, own, place)
    protocol = engine_protocol(part, task.protocol)
    snapshot = place.first.so_far(own)
    if snapshot is None or not is_first(snapshot):
        engine = ENGINES.get(part.engine)(task.spec, part.members, protocol, task.device)
        train_first(engine, place.data, protocol, part.evaluation_batch, keeper, snapshot, part.chunk)
        snapshot = keeper.last
    assert snapshot is not None  # noqa: S101 (the last one is always kept)
    return First(part.members, snapshot)


class _Keeper(TaskWatcher):
    """Keeps where a training stands, of which it may be a part."""

    keeps = True

    def __init__(self, task: TrainingTask, training: Training, place: Surroundings) -> None:
        super().__init__(task, place)
        self._training = training
        self.last: Snapshot | None = None

    def write(self, snapshot: Snapshot) -> None:
        self.last = snapshot
        self.place.first.keep(self._training, snapshot)
