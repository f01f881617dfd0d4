"""The executor that computes group after group in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from atras.errors import Interrupted
from atras.running.divided import free_memory, out_of_memory
from atras.running.task import GroupTask, Surroundings

from .executor import Executor, Outcome


class LocalExecutor(Executor):
    """Group after group in this process, in the order of the plan."""

    name = "local"

    def map(self, tasks: Sequence[GroupTask], place: Surroundings) -> Iterator[Outcome]:
        for task in tasks:
            if place.stop():
                raise Interrupted
            yield compute(task, place)


def compute(task: GroupTask, place: Surroundings) -> Outcome:
    """A task's outcome, computed here and now.

    Raises:
        Interrupted, InputError: as `Executor.map`.
    """
    try:
        return Outcome(task, task.run(place))
    except Exception as error:
        if not out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
    # Out of the handler: it holds what the group had allocated.
    free_memory()
    return Outcome(task, None, reason)
