"""What the commands share that compute a run: its folder, its signals, what is shown at its end."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atras.errors import InputError, Interrupted, wrapped
from atras.experiment import Execution, Protocol
from atras.running import Signals, choose_reporter
from atras.storage import new_folder

from .command_options import Asked
from .output import Ended, print_lines, print_text, silence, terminal_width

if TYPE_CHECKING:
    from atras.networks import Weights
    from atras.results import Results

_IMPORTED = time.perf_counter()


def compute(
    protocol: Protocol,
    execution: Execution,
    command: Asked,
    *,
    plan: dict[str, Any] | None = None,
    note: str = "",
    weights: Sequence[Weights] = (),
    confirm_seeds: tuple[int, ...] = (),
) -> Results | None:
    """Begin a run or go on with one, and show its results; in a dry run the plan.

    Args:
        protocol, execution: of the run.
        command: which run it is, and what is shown.
        plan: that an earlier run recorded.
        note: said first.
        weights: of finished networks.
        confirm_seeds: fresh ones for its winner; those that a run was begun with need not be said again.

    Returns:
        The results; None of a dry run.
    """
    from atras.running import plan_lines, resume
    from atras.running import run as begin
    from atras.search import seeds_to_confirm

    finished: Any = {"weights": weights} if weights else {}
    reporter = choose_reporter(command.quiet)
    if command.dry_run:
        with contextlib.closing(reporter):
            width = terminal_width()
            planned = plan_lines(protocol, execution, plan, reporter, width=width, **finished)
            print_lines([*wrapped([note], width), *planned])
        return None
    if note:
        reporter.note(note)
    with folder_of(command, protocol) as folder, stoppable(folder / "run.json") as signals:
        arguments: Any = {"reporter": reporter, "startup_seconds": seconds_since_start(), "stop": signals.stop}
        try:
            if command.resume is None:
                fresh: Any = {"confirm_seeds": confirm_seeds} if confirm_seeds else {}
                results = begin(protocol, execution, out=folder, config_plan=plan, **arguments, **finished, **fresh)
            else:
                results = resume(folder, protocol, execution, take_over=command.take_over, **arguments)
        finally:
            reporter.close()
        if seeds := confirm_seeds or (() if command.resume is None else seeds_to_confirm(results)):
            results = confirmed(results, seeds, execution, command, signals.stop)
    from atras.analysis import caution_lines, json_text, run_data, summary_lines

    if command.json:
        print_json(json_text(run_data(results)))
        return results
    width = terminal_width()
    # All others were told of them on the way.
    show([*summary_lines(results, width), *(caution_lines(results, width) if command.quiet else ())], folder)
    return results


def confirmed(
    results: Results, seeds: tuple[int, ...], execution: Execution, command: Asked, stop: Callable[[], bool]
) -> Results:
    """A finished run with its winner measured on fresh seeds."""
    from atras.search import confirm

    with contextlib.closing(choose_reporter(command.quiet)) as reporter:
        return confirm(results, seeds, execution, reporter=reporter, stop=stop)


@contextlib.contextmanager
def stoppable(record: Path) -> Iterator[Signals]:
    """Listen to signals, and say at the end by one how to go on: with the folder of `record`, where that is written."""
    with Signals() as signals:
        try:
            yield signals
        except (Interrupted, KeyboardInterrupt):
            more = f"; go on with --resume {record.parent}" if record.exists() else ""
            raise Ended(f"interrupted{more}", signals.status) from None


def print_json(text: str) -> None:
    """Print results for a script."""
    with contextlib.suppress(BrokenPipeError):  # its reader is gone, the results are not
        print_text(text)


def show(lines: Iterable[str], folder: Path) -> None:
    """Print the end of a command that computed something."""
    try:
        print_lines([*lines, f"results are in {folder}"])
    except (OSError, InputError):
        silence()  # the terminal or pipe is gone, the results are not


@contextlib.contextmanager
def folder_of(command: Asked, protocol: Protocol) -> Iterator[Path]:
    """The folder of a run; one without a name from its user is made at once, and is gone again if nothing came there.

    Raises:
        InputError: if it cannot be made.
    """
    named = command.resume or command.out
    folder = Path(named) if named else new_folder(_default_folder(protocol.dataset))
    try:
        yield folder
    finally:
        if not named:
            # Neither goes that has something in it.
            with contextlib.suppress(OSError):
                folder.rmdir()
                folder.parent.rmdir()


def _default_folder(dataset: str) -> Path:
    # Not the path's own resolve(): that fails on a loop of links and on a NUL, which the data set's reader names.
    stem = Path(os.path.abspath(dataset.replace("\0", "_"))).stem  # noqa: PTH100
    harmless = re.sub(r"[^\w.+-]+", "_", stem)[:100]
    return Path("runs") / f"{harmless or 'data'}-{time.strftime('%Y%m%d-%H%M%S')}"


def seconds_since_start() -> float:
    """Wall time since this process began; since this module was imported where /proc does not tell."""
    here = time.perf_counter() - _IMPORTED
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(here, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return here
