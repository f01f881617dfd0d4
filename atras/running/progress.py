"""Reports of a run's progress: none, plain lines (pipes and files) or live bars (terminals)."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO, cast

from atras.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 5.0
"""Least time between two progress lines of one group in plain output."""


class Reporter:
    """Base class of reporters: told of a run's progress, it shows nothing."""

    def plan(self, lines: list[str]) -> None:
        """The plan is made; `lines` describe it."""

    def note(self, message: str) -> None:
        """Something the user should know, such as an automatic choice and its reason."""

    def decoding(self, done: int, total: int) -> None:
        """So many of a data set's image files are decoded; said of none where they were decoded before."""

    def group_started(self, index: int, total: int, label: str, members: int, steps: int) -> None:
        """Group `index` (from 0) of `total` begins; it has `steps` optimizer steps to do over all phases."""

    def group_resumed(self, index: int, steps_done: int) -> None:
        """Group `index`, which has just begun here, had done `steps_done` of its steps before."""

    def progress(self, index: int, phase: str, steps_done: int, loss: float | None, accuracy: float | None) -> None:
        """Group `index` has done `steps_done` of its steps; loss and accuracy are means over its members."""

    def attacking(self, index: int, phase: str, attack: str, share: float) -> None:
        """Group `index` is under attack; this share of the work is done, if no image falls before its time.

        Args:
            index: number of the group.
            phase: `trained` or `defended`: the networks that are attacked.
            attack: name of the attack that is under way.
            share: of all attacks on these networks, from 0 to 1.
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
        self._decoded_at = 0.0

    def plan(self, lines: list[str]) -> None:
        for line in lines:
            self._say(line)

    def note(self, message: str) -> None:
        self._say(message)

    def decoding(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done in (0, total) or now - self._decoded_at >= SECONDS_BETWEEN_LINES:
            self._decoded_at = now
            self._say(f"decoding {total} images, {100 * done // total} %")

    def group_started(self, index: int, total: int, label: str, members: int, steps: int) -> None:
        self._titles[index] = f"group {index + 1}/{total}, {label}"
        self._steps[index] = max(steps, 1)
        self._told[index] = (time.monotonic(), -1)
        self._say(f"{self._titles[index]}, {_count(members)}, {steps} steps")

    def progress(self, index: int, phase: str, steps_done: int, loss: float | None, accuracy: float | None) -> None:
        if index not in self._titles:
            return
        percent = self._percent(index, steps_done)
        self._say_rarely(index, percent, f"{percent} % {phase} {' '.join(_figures(loss, accuracy))}".rstrip())

    def attacking(self, index: int, phase: str, attack: str, share: float) -> None:
        if index in self._titles:
            percent = int(100 * share)
            self._say_rarely(index, percent, f"{phase} networks under attack, {percent} %, {attack}")

    def _say_rarely(self, index: int, percent: int, text: str) -> None:
        """By the percent, so that a run of weeks leaves no longer a log than one of minutes."""
        now, (before, told) = time.monotonic(), self._told[index]
        if now - before >= SECONDS_BETWEEN_LINES and percent != told:
            self._told[index] = (now, percent)
            self._say(f"{self._titles[index]}, {text}")

    def group_finished(self, index: int, seconds: float) -> None:
        self._say(f"{self._titles.pop(index, f'group {index + 1}')}, finished in {_duration(seconds)}")

    def group_resumed(self, index: int, steps_done: int) -> None:
        self._say(f"{self._titles[index]}, goes on from {self._percent(index, steps_done)} %")

    def _percent(self, index: int, steps_done: int) -> int:
        return min(100 * steps_done // self._steps[index], 100)

    def _say(self, line: str) -> None:
        self._stream.write(f"{printable(line)}\n")
        self._stream.flush()


class LiveReporter(Reporter):
    """A bar for each group that runs: label, members, percent, loss, accuracy, time left; a line for each finished one.

    Args:
        console: the rich console to draw on.
    """

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
            transient=True,
            # Updates come once an epoch, which may take minutes: rich's 30 seconds would leave no estimate.
            speed_estimate_period=3600.0,
        )
        self._tasks: dict[int, tuple[TaskID, str]] = {}
        self._attacked: dict[int, tuple[str, int]] = {}
        """Groups under attack: which networks, and the steps of the group's training."""
        self._decoding: TaskID | None = None

    def plan(self, lines: list[str]) -> None:
        for line in lines:
            self.note(line)

    def note(self, message: str) -> None:
        self._console.print(printable(message), markup=False, highlight=False)

    def decoding(self, done: int, total: int) -> None:
        if self._decoding is None:
            self._progress.start()
            self._decoding = self._progress.add_task(f"decoding {total} images", total=total, figures="")
        self._progress.update(self._decoding, completed=done)
        if done == total:
            self._progress.remove_task(self._decoding)
            self._decoding = None
            self.note(f"decoded {total} images")

    def group_started(self, index: int, total: int, label: str, members: int, steps: int) -> None:
        title = f"{index + 1}/{total} {label} x{members}"
        self._progress.start()
        if index in self._tasks:  # its worker was lost
            self._progress.remove_task(self._tasks.pop(index)[0])
            self._attacked.pop(index, None)
        task = self._progress.add_task(title, total=max(steps, 1), figures="")
        self._tasks[index] = (task, title)

    def group_resumed(self, index: int, steps_done: int) -> None:
        task, title = self._tasks[index]
        # As a new bar: an update would count as speed.
        self._progress.reset(task, completed=steps_done)
        self.note(f"{title}, goes on from {100 * steps_done // max(self._total(task), 1)} %")

    def _total(self, task: TaskID) -> int:
        return int(next(one.total for one in self._progress.tasks if one.id == task) or 0)

    def progress(  # the phase finds no room in 80 columns
        self,
        index: int,
        phase: str,  # noqa: ARG002
        steps_done: int,
        loss: float | None,
        accuracy: float | None,
    ) -> None:
        if index in self._tasks:
            figures = " ".join(_figures(loss, accuracy))
            task, _ = self._tasks[index]
            if index in self._attacked:  # the bar was that of the attacks
                _, steps = self._attacked.pop(index)
                self._progress.reset(task, total=steps, completed=steps_done)
            self._progress.update(task, completed=steps_done, figures=figures)

    def attacking(self, index: int, phase: str, attack: str, share: float) -> None:
        if index not in self._tasks:
            return
        task, _ = self._tasks[index]
        if index not in self._attacked or self._attacked[index][0] != phase:
            # A bar of its own, so that the time left is that of the attacks.
            self._attacked[index] = (phase, self._attacked.get(index, ("", self._total(task)))[1])
            self._progress.reset(task, total=1.0)
        self._progress.update(task, completed=share, figures=f"{attack}, {phase}")

    def group_finished(self, index: int, seconds: float) -> None:
        if index in self._tasks:
            # A finished bar becomes a line above: with many groups the live part would outgrow the terminal.
            task, title = self._tasks.pop(index)
            self._attacked.pop(index, None)
            self._progress.remove_task(task)
            self.note(f"{title}, finished in {_duration(seconds)}")

    def close(self) -> None:
        self._progress.stop()


def choose_reporter(quiet: bool = False, stream: TextIO | None = None) -> Reporter:
    """The reporter that suits a stream: nothing when quiet, live bars on a terminal, plain lines elsewhere.

    Args:
        quiet: show nothing.
        stream: where to show it; the standard error stream when None.
    """
    stream = cast(TextIO, Lasting(sys.stderr if stream is None else stream))
    if quiet:
        return Reporter()
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return PlainReporter(stream)
    from rich.console import Console

    return LiveReporter(Console(file=stream))


def _count(members: int) -> str:
    return f"{members} member" if members == 1 else f"{members} members"


def _figures(loss: float | None, accuracy: float | None) -> list[str]:
    shown = {"loss": loss, "acc": accuracy}
    return [f"{name} {value:.3f}" for name, value in shown.items() if value is not None]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
