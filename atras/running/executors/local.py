"""The executor that computes group after group in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from atras.errors import Interrupted
from atras.evaluation import Rows
from atras.running.divided import shortage
from atras.running.unit import Surroundings

from .executor import AnyTask, Executor, Outcome


class LocalExecutor(Executor):
    """Task after task in this process, in the order of the plan."""

    name = "local"

    def map(self, tasks: Sequence[AnyTask], place: Surroundings) -> Iterator[Outcome[AnyTask]]:
        for task in tasks:
            if place.stop():
                raise Interrupted
            yield compute(task, place)


def compute(task: AnyTask, place: Surroundings) -> Outcome[AnyTask]:
    """A task's outcome, computed here and now.

    Raises:
        Interrupted, InputError: as `Executor.map`.
    """
    done: list[Rows] = []
    reason = shortage(lambda: done.append(task.run(place)))
    return Outcome(task, done[0] if done else None, reason)
