"""Reports of a run's progress: none, or plain lines (pipes and files)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, TextIO

from atras.errors import printable
from atras.rounding import counted

from .time_left import Overall, Work

SECONDS_BETWEEN_LINES = 5.0
"""Least time between two progress lines of one group in plain output."""


class Reporter:
    """Base class of reporters: told of a run's progress, it shows nothing."""

    @property
    def width(self) -> int:
        """Columns that tables are laid out for."""
        return 80

    def plan(self, lines: list[str]) -> None:
        """The plan is made; `lines` describe it."""

    def note(self, message: str) -> None:
        """Something the user should know, such as an automatic choice and its reason."""

    def decoding(self, done: int, total: int) -> None:
        """So many of a data set's image files are decoded; said of none where they were decoded before."""

    def expect(self, works: Mapping[int, Work], after: float) -> None:
        """What is left of a run: the work of each group by its number, and that of the transfer after all groups."""

    def part(self, name: str, share: float) -> None:
        """A part of the work that is of no group, such as the transfer, is done to this share, from 0 to 1."""

    def group_started(self, index: int, total: int, label: str, members: int, steps: int) -> None:
        """Group `index` (from 0) of `total` begins; it has `steps` optimizer steps to do over all phases.

        A first training that groups need is told of like a group. Its number is below 0, -1 for the first of `total`.
        """

    def group_resumed(self, index: int, steps_done: int) -> None:
        """Group `index`, which has just begun here, had done `steps_done` of its steps before."""

    def progress(self, index: int, phase: str, steps_done: int, loss: float | None, accuracy: float | None) -> None:
        """Group `index` has done `steps_done` of its steps; loss and accuracy are means over its members."""

    def attacking(self, index: int, phase: str, attack: str, share: float, work: float = 1.0) -> None:
        """Group `index` is under attack.

        Args:
            index: number of the group.
            phase: `trained` or `defended`: the networks that are attacked; empty where nothing is known of them.
            attack: name of the attack that is under way.
            share: of all attacks on these networks that is done, from 0 to 1.
            work: that of these attacks, of what was predicted as if no image were turned before an attack's last step.
        """

    def group_finished(self, index: int, seconds: float) -> None:
        """Group `index` is done."""

    def close(self) -> None:
        """Nothing more will come; may be called twice."""


class Lasting:
    """A text stream that takes everything, also once the terminal or pipe behind it is gone: a run must not end of it.

    Args:
        stream: where text goes as long as that works.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PlainReporter(Reporter):
    """One plain line an event, and at most one progress line a group every few seconds and every percent.

    Args:
        stream: where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._titles: dict[int, str] = {}
        self._steps: dict[int, int] = {}
        self._told: dict[int, tuple[float, int]] = {}
        self._parts: dict[str, float] = {}
        self._decoded_at = 0.0
        self._overall = Overall({}, 0.0)

    def expect(self, works: Mapping[int, Work], after: float) -> None:
        self._overall = Overall(works, after)

    def part(self, name: str, share: float) -> None:
        self._overall.part(share)
        now, before = time.monotonic(), self._parts.get(name)
        if before is None or share >= 1 or now - before >= SECONDS_BETWEEN_LINES:
            self._parts[name] = now
            self._say(f"{name}, {100 * share:.0f} %{self._left()}")

    def plan(self, lines: list[str]) -> None:
        for line in lines:
            self._say(line)

    def note(self, message: str) -> None:
        self._say(message)

    def decoding(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done in (0, total) or now - self._decoded_at >= SECONDS_BETWEEN_LINES:
            self._decoded_at = now
            self._say(f"decoding {counted(total, 'image')}, {100 * done // total} %")

    def group_started(self, index: int, total: int, label: str, members: int, steps: int) -> None:
        self._titles[index] = f"{numbered(index, total)}, {label}"
        steps_told = f", {counted(steps, 'step')}" if steps else ""
        self._steps[index] = max(steps, 1)
        self._told[index] = (time.monotonic(), -1)
        self._say(f"{self._titles[index]}, {counted(members, 'member')}{steps_told}")

    def progress(self, index: int, phase: str, steps_done: int, loss: float | None, accuracy: float | None) -> None:
        if index not in self._titles:
            return
        percent = self._percent(index, steps_done)
        self._overall.trained(index, steps_done / self._steps[index])
        self._say_rarely(index, percent, f"{percent} % {phase} {' '.join(figures_of(loss, accuracy))}".rstrip())

    def attacking(self, index: int, phase: str, attack: str, share: float, work: float = 1.0) -> None:
        if index in self._titles:
            percent = int(100 * self._overall.attacked(index, phase, share, work))
            what = f"{phase} networks under attack".lstrip()
            self._say_rarely(index, percent, f"{what}, {percent} % of the attacks, {attack}")

    def _say_rarely(self, index: int, percent: int, text: str) -> None:
        """By the percent, so that a run of weeks leaves no longer a log than one of minutes."""
        now, (before, told) = time.monotonic(), self._told[index]
        if now - before >= SECONDS_BETWEEN_LINES and percent != told:
            self._told[index] = (now, percent)
            self._say(f"{self._titles[index]}, {text}{self._left()}")

    def group_finished(self, index: int, seconds: float) -> None:
        self._overall.finished(index)
        title = self._titles.pop(index, f"group {index + 1}")
        self._say(f"{title}, finished in {duration(seconds)}{self._left()}")

    def group_resumed(self, index: int, steps_done: int) -> None:
        self._overall.resumed(index, steps_done / self._steps[index])
        self._say(f"{self._titles[index]}, goes on from {self._percent(index, steps_done)} % of its training")

    def _left(self) -> str:
        left = self._overall.seconds_left()
        return "" if left is None else f"; about {duration(left)} left in all"

    def _percent(self, index: int, steps_done: int) -> int:
        return min(100 * steps_done // self._steps[index], 100)

    def _say(self, line: str) -> None:
        self._stream.write(f"{printable(line)}\n")
        self._stream.flush()


def numbered(index: int, total: int) -> str:
    """A group by its number among all for people, or a first training by its own, which is below 0."""
    return f"group {index + 1}/{total}" if index >= 0 else f"training {-index}/{total}"


def figures_of(loss: float | None, accuracy: float | None) -> list[str]:
    """Loss and accuracy, as far as they are known."""
    shown = {"loss": loss, "acc": accuracy}
    return [f"{name} {value:.3f}" for name, value in shown.items() if value is not None]


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
