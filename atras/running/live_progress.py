"""Progress as live bars on a terminal, and the choice of what suits a stream."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO, cast

from atras.errors import printable
from atras.rounding import counted

from .progress import Lasting, PlainReporter, Reporter, duration, figures_of
from .time_left import Overall, Work

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


WIDE = 80
"""Columns of a terminal from which bars and figures are shown beside percent and time left."""


class LiveReporter(Reporter):
    """A bar for each group that runs: label, members, percent, loss, accuracy, time left; a line for each finished one.

    Args:
        console: the rich console to draw on.
    """

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._console = console
        # A narrow terminal has no room for all: the percent and the time left stay whole.
        wide = console.width >= WIDE
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            *([BarColumn(bar_width=None)] if wide else []),
            TaskProgressColumn(),
            *([TextColumn("{task.fields[figures]}", markup=False)] if wide else []),
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
        self._parts: dict[str, TaskID] = {}
        self._overall = Overall({}, 0.0)
        self._all: TaskID | None = None

    def expect(self, works: Mapping[int, Work], after: float) -> None:
        self._overall = Overall(works, after)
        if len(works) + (after > 0) > 1:
            self._all = self._progress.add_task("all", total=1.0, figures="")

    def part(self, name: str, share: float) -> None:
        self._progress.start()
        if name not in self._parts:
            self._parts[name] = self._progress.add_task(name, total=1.0, figures="")
        self._progress.update(self._parts[name], completed=share)
        self._overall.part(share)
        self._tell_overall()
        if share >= 1:
            self._progress.remove_task(self._parts.pop(name))

    def _tell_overall(self) -> None:
        if self._all is not None:
            # What is left may turn out to be more than it seemed; a bar does not go back.
            before = next(one.completed for one in self._progress.tasks if one.id == self._all)
            self._progress.update(self._all, completed=max(before, self._overall.share))

    @property
    def width(self) -> int:
        return max(self._console.width, 60)

    def plan(self, lines: list[str]) -> None:
        for line in lines:
            self.note(line)

    def note(self, message: str) -> None:
        self._console.print(printable(message), markup=False, highlight=False)

    def decoding(self, done: int, total: int) -> None:
        if self._decoding is None:
            self._progress.start()
            self._decoding = self._progress.add_task(f"decoding {counted(total, 'image')}", total=total, figures="")
        self._progress.update(self._decoding, completed=done)
        if done == total:
            self._progress.remove_task(self._decoding)
            self._decoding = None
            self.note(f"decoded {counted(total, 'image')}")

    def group_started(self, index: int, total: int, label: str, members: int, steps: int) -> None:
        number = f"{index + 1}/{total}" if index >= 0 else f"training {-index}/{total},"
        title = f"{number} {label} x{members}"
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
        self._overall.resumed(index, steps_done / max(self._total(task), 1))
        if self._all is not None:
            self._progress.reset(self._all, completed=self._overall.share)  # type: ignore[arg-type] # any number will do
        self.note(f"{title}, goes on from {100 * steps_done // max(self._total(task), 1)} % of its training")

    def _total(self, task: TaskID) -> int:
        return int(next(one.total for one in self._progress.tasks if one.id == task) or 0)

    def _steps_of(self, index: int) -> int:
        """Steps of a group's training, also while its bar is that of attacks."""
        return self._attacked[index][1] if index in self._attacked else self._total(self._tasks[index][0])

    def progress(  # the phase finds no room in 80 columns
        self,
        index: int,
        phase: str,  # noqa: ARG002
        steps_done: int,
        loss: float | None,
        accuracy: float | None,
    ) -> None:
        if index in self._tasks:
            self._overall.trained(index, steps_done / max(self._steps_of(index), 1))
            self._tell_overall()
            figures = " ".join(figures_of(loss, accuracy))
            task, _ = self._tasks[index]
            if index in self._attacked:  # the bar was that of the attacks
                _, steps = self._attacked.pop(index)
                self._progress.reset(task, total=steps, completed=steps_done)
            self._progress.update(task, completed=steps_done, figures=figures)

    def attacking(self, index: int, phase: str, attack: str, share: float, work: float = 1.0) -> None:
        if index not in self._tasks:
            return
        share = self._overall.attacked(index, phase, share, work)
        self._tell_overall()
        task, _ = self._tasks[index]
        if index not in self._attacked or self._attacked[index][0] != phase:
            # A bar of its own, so that the time left is that of the attacks.
            self._attacked[index] = (phase, self._attacked.get(index, ("", self._total(task)))[1])
            self._progress.reset(task, total=1.0)
        self._progress.update(task, completed=share, figures=", ".join(filter(None, (attack, phase))))

    def group_finished(self, index: int, seconds: float) -> None:
        self._overall.finished(index)
        self._tell_overall()
        if index in self._tasks:
            # A finished bar becomes a line above: with many groups the live part would outgrow the terminal.
            task, title = self._tasks.pop(index)
            self._attacked.pop(index, None)
            self._progress.remove_task(task)
            self.note(f"{title}, finished in {duration(seconds)}")

    def close(self) -> None:
        if self._all is not None:
            self._progress.remove_task(self._all)
            self._all = None
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
