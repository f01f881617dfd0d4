"""The time that a whole run has left: from the work that is predicted of its groups, and the time that a part took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

LEAST = 0.02
"""Share of the work below which nothing is said of the rest."""


class Work(NamedTuple):
    """The work that is predicted of a group, in any unit: of its training, and of evaluation and attacks."""

    training: float
    attacks: float


class Overall:
    """How far a run is.

    Args:
        works: of the groups that are left, by their numbers.
        after: work after all groups, in the same unit.
    """

    def __init__(self, works: Mapping[int, Work], after: float) -> None:
        self._works, self._after, self._done_after = dict(works), after, 0.0
        self._trained = dict.fromkeys(works, 0.0)
        self._attacked = dict.fromkeys(works, 0.0)
        self._start = time.monotonic()

    def trained(self, index: int, share: float) -> None:
        """A group has done this share of its steps."""
        if index in self._works:
            self._trained[index] = max(self._trained[index], min(share, 1.0))

    def attacked(self, index: int, phase: str, share: float) -> None:
        """Attacks on a group's networks of a phase, `trained` or `defended`, are done to this share."""
        if index in self._works:
            half = share / 2 if phase == "trained" else 0.5 + share / 2
            self._attacked[index] = max(self._attacked[index], half)

    def finished(self, index: int) -> None:
        """A group is done."""
        if index in self._works:
            self._trained[index] = self._attacked[index] = 1.0

    def part(self, share: float) -> None:
        """What comes after all groups is done to this share."""
        self._done_after = share

    @property
    def share(self) -> float:
        """Of all work, from 0 to 1; 0 where nothing is known of it."""
        total = sum(map(sum, self._works.values())) + self._after
        done = sum(
            self._trained[index] * work.training + self._attacked[index] * work.attacks
            for index, work in self._works.items()
        )
        return (done + self._done_after * self._after) / total if total else 0.0

    def seconds_left(self) -> float | None:
        """If the rest goes as fast as what is done; None where too little is done to tell, or nothing is left."""
        share = self.share
        if not LEAST <= share < 1:
            return None
        return (time.monotonic() - self._start) * (1 - share) / share
