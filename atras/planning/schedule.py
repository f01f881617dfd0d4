"""Tasks of known work on several equal machines: the longest first, each to the machine that is free first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple


class Schedule(NamedTuple):
    """When machines are done.

    Args:
        makespan: until the last one is.
        ideal: if all had the same to do.
        first_idle: when the first one finds nothing to do.
    """

    makespan: float
    ideal: float
    first_idle: float

    @property
    def tail(self) -> float:
        """Share of the makespan during which some machine waits for the last one, in [0, 1]."""
        return 1 - self.first_idle / self.makespan if self.makespan else 0.0


def deal(work: Sequence[float], machines: int) -> list[list[int]]:
    """The numbers of the tasks that each machine gets: the longest first, to the one with least work so far.

    Args:
        work: of each task, in any unit.
        machines: at least 1.
    """
    hands: list[list[int]] = [[] for _ in range(machines)]
    free = [(0.0, machine) for machine in range(machines)]
    for task in sorted(range(len(work)), key=lambda task: (-work[task], task)):
        busy, machine = free[0]
        hands[machine].append(task)
        heapq.heapreplace(free, (busy + work[task], machine))
    return hands


def schedule(work: Sequence[float], machines: int) -> Schedule:
    """The times of tasks that are dealt like that, in the unit of their work."""
    busy = [sum(work[task] for task in hand) for hand in deal(work, machines)]
    return Schedule(max(busy), sum(work) / machines, min(busy))
