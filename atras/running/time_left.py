"""The time that a whole run has left: from the work that is predicted of its groups, and the time that a part took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

LEAST = 0.02
"""Share of the work below which nothing is said of the rest."""


PHASES = ("trained", "defended")
"""Of the networks that are attacked."""


class Work(NamedTuple):
    """The work that is predicted of a group, in any unit.

    Args:
        training: of it.
        attacks: of evaluation and attacks, as if no image were turned before an attack's last step.
        phases: how many of `PHASES` the group has.
    """

    training: float
    attacks: float
    phases: int = 2


class _Attacks(NamedTuple):
    """Attacks on a group's networks of a phase: the share that is done, and their work of what was predicted."""

    share: float
    work: float


class Overall:
    """How far a run is.

    The work of attacks is what was predicted, corrected by what they turn out to be: of a phase that is not under
    attack yet by the mean of the groups whose networks of that phase were.

    Args:
        works: of the groups that are left, by their numbers.
        after: work after all groups, in the same unit.
    """

    def __init__(self, works: Mapping[int, Work], after: float) -> None:
        self._works, self._after, self._done_after = dict(works), after, 0.0
        self._trained = dict.fromkeys(works, 0.0)
        self._attacks: dict[str, dict[int, _Attacks]] = {phase: {} for phase in PHASES}
        self._earlier, self._resumed = 0.0, set[int]()
        self._start = time.monotonic()

    def resumed(self, index: int, share: float) -> None:
        """A group had done this share of its steps, and perhaps of its attacks, before the run's start here."""
        before = self._sums()[0]
        self.trained(index, share)
        self._earlier += self._sums()[0] - before
        self._resumed.add(index)

    def trained(self, index: int, share: float) -> None:
        """A group has done this share of its steps."""
        if index in self._works:
            self._trained[index] = max(self._trained[index], min(share, 1.0))

    def attacked(self, index: int, phase: str, share: float, work: float = 1.0) -> float:
        """Attacks on a group's networks of a phase, `trained` or `defended`, are done to this share.

        Returns:
            The share: never less than before, though what is left may turn out to be more.
        """
        before = self._sums()[0]
        phase = phase or PHASES[0]
        own = self._attacks[phase].get(index)
        share = share if own is None else max(own.share, share)
        self._attacks[phase][index] = _Attacks(share, work)
        for earlier in PHASES[: PHASES.index(phase)]:  # of which the end may not have been told
            self._at_least(earlier, index, share)
        if index in self._resumed:  # what was done before is told with the first step here
            self._resumed.discard(index)
            self._earlier += self._sums()[0] - before
        return share

    def finished(self, index: int) -> None:
        """A group is done."""
        self.trained(index, 1.0)
        for phase in PHASES:
            self._at_least(phase, index, 1.0)

    def _at_least(self, phase: str, index: int, share: float) -> None:
        own = self._attacks[phase].get(index, _Attacks(0.0, self._expected(phase)))
        self._attacks[phase][index] = own._replace(share=max(own.share, share))

    def part(self, share: float) -> None:
        """What comes after all groups is done to this share."""
        self._done_after = share

    def _expected(self, phase: str) -> float:
        """The work of attacks on networks of a phase, of what was predicted."""
        known = self._attacks[phase].values()
        return sum(each.work for each in known) / len(known) if known else 1.0

    def _sums(self) -> tuple[float, float]:
        """The work that is done, and all."""
        done, total = self._done_after * self._after, self._after
        expected = {phase: _Attacks(0.0, self._expected(phase)) for phase in PHASES}
        for index, work in self._works.items():
            done, total = done + self._trained[index] * work.training, total + work.training
            for phase in PHASES[: work.phases]:
                share, factor = self._attacks[phase].get(index, expected[phase])
                own = factor * work.attacks / work.phases
                done, total = done + share * own, total + own
        return done, total

    @property
    def share(self) -> float:
        """Of all work, from 0 to 1; 0 where nothing is known of it."""
        done, total = self._sums()
        return done / total if total else 0.0

    def seconds_left(self) -> float | None:
        """If the rest goes as fast as what is done; None where too little is done to tell, or nothing is left."""
        done, total = self._sums()
        here = done - self._earlier
        if not (total and LEAST <= done / total < 1 and here > 0):
            return None
        return (time.monotonic() - self._start) * (total - done) / here
