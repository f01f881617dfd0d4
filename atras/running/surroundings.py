"""The surroundings of a task in a process that has nothing but the task."""

from __future__ import annotations

from collections.abc import Callable

from atras.training import Networks

from .first_trainings import FirstTrainings
from .progress import Reporter
from .task import GroupTask
from .unit import Surroundings


def surroundings_of(
    task: GroupTask, reporter: Reporter | None = None, stop: Callable[[], bool] = lambda: False
) -> Surroundings:
    """Load the data; first trainings that a task needs are computed when it is.

    Args:
        task: what is to be computed.
        reporter: told of everything; None for silence.
        stop: asked between calls whether to stop.

    Raises:
        InputError: if the data cannot be loaded.
    """
    networks = Networks(task.folder, task.spec, task.run_hash, in_memory=task.protocol.tries_other_networks)
    first = FirstTrainings(task.folder, task.run_hash, task.held)
    return Surroundings(task.data.load(task.device), networks, first, reporter or Reporter(), stop)
