"""How far attacks on modules in memory are: on a terminal, by the progress that runs show."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from atras.errors import printable
from atras.evaluation import Attacking, Steps
from atras.running import Reporter, choose_reporter

FIRST = 1.0
"""Seconds before anything is shown: what is done by then needs no bar."""

BETWEEN = 0.1
"""Least seconds between two figures."""

NAMED = 3
"""Most modules that are named."""


class AttackProgress:
    """What is attacked, how far that is and what is left, on the standard error stream; gone at the end.

    Args:
        shown: whether it is wanted; it is off in any case where the stream is no terminal.
        names: of the modules.
    """

    def __init__(self, shown: bool | None, names: Sequence[str]) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._reporter = choose_reporter() if shown and terminal else Reporter()
        self.shown = bool(shown and terminal)
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        self._label = printable(f"attack on {', '.join(names[:NAMED])}{more}")
        self._names, self._done, self._begun = len(names), 0, False
        self._next = time.monotonic() + FIRST

    def steps(self, members: int, now: Callable[[Steps], Attacking]) -> Steps | None:
        """The progress of an attack on so many modules, that is asked where it stands; None where nothing is shown."""
        if not self.shown:
            return None

        def tell() -> None:
            if time.monotonic() >= self._next:
                self._tell(members, now(steps))

        steps = Steps(tell)
        return steps

    def done(self, members: int) -> None:
        """So many modules have been attacked."""
        self._done += members

    def close(self) -> None:
        """Nothing more will come."""
        self._reporter.close()

    def _tell(self, members: int, at: Attacking) -> None:
        if not self._begun:
            self._reporter.group_started(0, 1, self._label, self._names, 0)
            self._begun = True
        self._reporter.attacking(0, "", at.attack.name, (self._done + at.share * members) / self._names, at.work)
        self._next = time.monotonic() + BETWEEN
