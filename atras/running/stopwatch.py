"""Seconds of a run by what it was at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

Taken = ParamSpec("Taken")
Given = TypeVar("Given")

AT = ("start", "data", "plan", "groups", "transfer", "writing")
"""What a run is at: its executor and device, which is tried; reading the data; planning; computing groups; trying
networks on each other's images; the record of its environment, rows as frames, files, what callbacks are told."""


class Stopwatch:
    """Seconds by the clock of each thing of `AT`: from its beginning to that of another.

    Args:
        begun: when the run began, by `time.perf_counter`.
    """

    def __init__(self, begun: float) -> None:
        self._at, self._since = AT[0], begun
        self._seconds = dict.fromkeys(AT, 0.0)

    def begin(self, at: str) -> None:
        """Another thing begins, and the one under way ends."""
        now = time.perf_counter()
        self._seconds[self._at] += now - self._since
        self._at, self._since = at, now

    @contextmanager
    def within(self, at: str) -> Iterator[None]:
        """A context of another thing, behind which the one under way goes on."""
        before = self._at
        self.begin(at)
        try:
            yield
        finally:
            self.begin(before)

    def loading(self, load: Callable[Taken, Given]) -> Callable[Taken, Given]:
        """A function that reads the data, behind which planning begins."""

        def timed(*args: Taken.args, **kwargs: Taken.kwargs) -> Given:
            self.begin("data")
            try:
                return load(*args, **kwargs)
            finally:
                self.begin("plan")

        return timed

    def timings(self, before: Mapping[str, object]) -> dict[str, object]:
        """The record of the seconds so far, for `run.json`.

        Args:
            before: the record of earlier sessions, which are added.
        """
        self.begin(self._at)
        return added_up([before, {"run_seconds": sum(self._seconds.values()), "seconds_at": self._seconds}])


def added_up(records: list[Mapping[str, object]]) -> dict[str, object]:
    """Records of seconds, of sessions or of parts of a run, added up."""
    seconds = [_numbers(record.get("seconds_at")) for record in records]
    total = sum(_numbers(record).get("run_seconds", 0.0) for record in records)
    return {"run_seconds": total, "seconds_at": {at: sum(each.get(at, 0.0) for each in seconds) for at in AT}}


def _numbers(values: object) -> dict[str, float]:
    """Those of a record that are numbers."""
    if not isinstance(values, Mapping):
        return {}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
