"""Tasks that train what a plan has, whatever they train: their costs, where they stand, and what is told of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from atras.planning import Group
from atras.training import Snapshot, Watcher

from .unit import NextCheckpoint, Surroundings, Task


@dataclass(frozen=True, kw_only=True)
class PlannedTask(Task):
    """A task of members that a plan has, with what it predicts of them.

    Args:
        total: of all tasks of its kind that the plan has.
    """

    total: int

    # Not `group`, which is a field of some: an inherited property of its name would be the field's default.
    @property
    @abstractmethod
    def planned(self) -> Group:
        """The members, and how they are computed."""

    @property
    def predicted_bytes(self) -> int:
        return self.planned.predicted_bytes

    @property
    def predicted_seconds(self) -> float | None:
        return self.planned.predicted_seconds

    @property
    def flops(self) -> int:
        return self.planned.flops


class TaskWatcher(Watcher, ABC):
    """Keeps where a training stands as often as its task wants, tells how far it is, and asks whether to stop.

    Args:
        task: that it is computed for.
        place: this process.
    """

    def __init__(self, task: Task, place: Surroundings) -> None:
        self.place = place
        self.steps_done = 0
        self._index, self._kept = task.index, task.folder is not None
        self._next = NextCheckpoint(task.checkpoint_every)

    def progress(self, phase: str, steps: int, loss: float, accuracy: float) -> None:
        self.steps_done += steps
        shown = [value if math.isfinite(value) else None for value in (loss, accuracy)]
        self.place.reporter.progress(self._index, phase, self.steps_done, *shown)

    def due(self) -> bool:
        return self._kept and self._next.due

    def stop(self) -> bool:
        return self.place.stop()

    def keep(self, snapshot: Snapshot) -> None:
        with self._next.writing():
            self.write(snapshot)

    @abstractmethod
    def write(self, snapshot: Snapshot) -> None:
        """Put it where it is kept."""
