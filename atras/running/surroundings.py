"""The surroundings of a task in a process that has nothing but the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from atras.training import Networks

from .defence_source import defence_source
from .progress import Reporter
from .task import GroupTask
from .unit import Surroundings


def surroundings_of(
    task: GroupTask, reporter: Reporter | None = None, stop: Callable[[], bool] = lambda: False
) -> Surroundings:
    """Load the data, and train the defence's source, where the protocol names one.

    Args:
        task: what is to be computed.
        reporter: told of everything; None for silence.
        stop: asked between calls whether to stop.

    Raises:
        InputError: if the data cannot be loaded.
        Interrupted: if `stop` said so.
    """
    networks = Networks(task.folder, task.spec, task.run_hash, in_memory=task.protocol.tries_other_networks)
    place = Surroundings(task.data.load(task.device), networks, None, reporter or Reporter(), stop)
    return dataclasses.replace(place, source=defence_source(task, place))
