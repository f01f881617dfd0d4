"""The command `run`: arguments -> Protocol and Execution -> one call. What is asked is decided elsewhere.

torch and polars are imported inside the functions that need them, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atras.checks import one_of
from atras.errors import InputError, Interrupted
from atras.experiment import SETTINGS, Execution, Loaded, Protocol, combine, parse_whole, settings_of
from atras.running import Signals, choose_reporter
from atras.storage import new_folder

from .command_options import CommandOptions
from .generated_options import command_class, with_options
from .output import Ended, print_lines, print_text, silence

if TYPE_CHECKING:
    from atras.results import Results

_IMPORTED = time.perf_counter()
_OWN = settings_of(CommandOptions)

OTHER_PLAN = "planned anew: the options given change what the recorded plan was made for"

RunCommand = command_class(SETTINGS.values())
"""The class of the command, which shows its help."""


@with_options([*SETTINGS.values(), *_OWN.values()])
def run(**given: Any) -> None:
    """Train, attack, defend and re-attack every candidate, then show the table.

    Without options: the paper's 40 architectures on the bundled handwritten digits.
    """
    written = {name: value for name, value in given.items() if value is not None and value != []}
    command = CommandOptions(**{name: value for name, value in written.items() if name in _OWN})
    if command.resume is not None:
        _refuse_beside_resume(written)
    settings = {name: value for name, value in written.items() if name in SETTINGS}
    loaded = _load(command)
    protocol, execution, plan = combine(loaded, settings)
    if command.print_config:
        from atras.experiment import config_lines

        print_lines(config_lines(protocol, execution))
        return
    left_out = loaded.plan is not None and plan is None and command.resume is None
    searching = (command.search, command.budget, command.rank_by)
    if any(option is not None for option in searching) or _is_search(command.resume):
        results = _search(protocol, execution, command)
    else:
        results = _run(protocol, execution, plan, command, OTHER_PLAN if left_out else "")
    if results is None or not command.fail_on_diverged:
        return
    diverged = [f"{name} (seed {seed})" for name, seed in results.members("diverged")]
    if diverged:
        raise Ended(f"diverged: {', '.join(diverged)}", 3)


def _run(
    protocol: Protocol, execution: Execution, plan: dict[str, Any] | None, command: CommandOptions, note: str
) -> Results | None:
    from atras.running import plan_lines, resume
    from atras.running import run as begin

    if command.dry_run:
        print_lines([*filter(None, [note]), *plan_lines(protocol, execution, plan)])
        return None
    reporter = choose_reporter(command.quiet)
    if note:
        reporter.note(note)
    with _folder(command, protocol) as folder, _stoppable(folder / "run.json") as signals:
        arguments: Any = {"reporter": reporter, "startup_seconds": _seconds_since_start(), "stop": signals.stop}
        try:
            if command.resume is None:
                results = begin(protocol, execution, out=folder, config_plan=plan, **arguments)
            else:
                results = resume(folder, protocol, execution, **arguments)
        finally:
            reporter.close()
    from atras.analysis import caution_lines, json_text, run_data, summary_lines

    if command.json:
        _print_json(json_text(run_data(results)))
        return results
    width = shutil.get_terminal_size().columns
    # All others were told of them on the way.
    _show([*summary_lines(results, width), *(caution_lines(results, width) if command.quiet else ())], folder)
    return results


def _search(protocol: Protocol, execution: Execution, command: CommandOptions) -> Results | None:
    from atras.analysis import RANK_BY, caution_lines, json_text, search_data
    from atras.search import SUMMARY, data_cautions, pareto_lines, rank_by_of, resume, round_lines, search

    most = 0 if command.resume is not None else _most(command)
    rank_by = command.rank_by or "accuracy"
    one_of("rank_by", rank_by, RANK_BY)
    if command.dry_run:
        print_lines([*round_lines(protocol, most), *data_cautions(protocol, execution)])
        return None
    with _folder(command, protocol) as folder, _stoppable(folder / SUMMARY) as signals:
        arguments: Any = {"reporter": lambda: choose_reporter(command.quiet), "stop": signals.stop}
        if command.resume is None:
            results = search(protocol, execution, most, folder, rank_by=rank_by, **arguments)
        else:
            results = resume(folder, protocol, execution, **arguments)
    if command.json:
        _print_json(json_text(search_data(results, rank_by_of(folder))))
        return results
    told = caution_lines(results, shutil.get_terminal_size().columns) if command.quiet else ()
    _show([*pareto_lines(results, rank_by_of(folder)), *told], folder)
    return results


def _most(command: CommandOptions) -> int:
    """The budget of a search, in candidate-epochs."""
    if command.search is None:
        asked = "budget" if command.rank_by is None else "rank_by"
        raise InputError(
            f"{asked}: expected with --search, which {'spends' if asked == 'budget' else 'ranks'}; add --search "
            "halving, or leave it out"
        )
    one_of("search", command.search, ("halving",))
    if command.budget is None:
        raise InputError("budget: expected with --search, none came; add --budget N, in candidate-epochs")
    return parse_whole(command.budget, "budget")


def _is_search(resume: str | None) -> bool:
    if resume is None:
        return False
    from atras.search import is_search

    return is_search(resume)


@contextlib.contextmanager
def _stoppable(record: Path) -> Iterator[Signals]:
    """Listen to signals, and say at the end by one how to go on: with the folder of `record`, where that is written."""
    with Signals() as signals:
        try:
            yield signals
        except (Interrupted, KeyboardInterrupt):
            more = f"; go on with --resume {record.parent}" if record.exists() else ""
            raise Ended(f"interrupted{more}", signals.status) from None


def _print_json(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # its reader is gone, the results are not
        print_text(text)


def _show(lines: Iterable[str], folder: Path) -> None:
    try:
        print_lines([*lines, f"results are in {folder}"])
    except (OSError, InputError):
        silence()  # the terminal or pipe is gone, the results are not


def _refuse_beside_resume(settings: dict[str, Any]) -> None:
    for name in ("config", "out", "dry_run", "search", "budget", "rank_by"):
        if name in settings:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"resume and {option} exclude each other: a run goes on where and as it began")


def _load(command: CommandOptions) -> Loaded:
    """The content of the configuration file, or the record of the run or search to be resumed."""
    resume = command.resume
    if resume is not None:
        from atras.running import recorded as run_recorded
        from atras.search import is_search
        from atras.search import recorded as search_recorded

        return search_recorded(resume) if is_search(resume) else run_recorded(resume)
    if command.config is None:
        return Loaded()
    from atras.experiment import load_config

    return load_config(command.config)


@contextlib.contextmanager
def _folder(command: CommandOptions, protocol: Protocol) -> Iterator[Path]:
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


def _seconds_since_start() -> float:
    """Wall time since this process began; since this module was imported where /proc does not tell."""
    here = time.perf_counter() - _IMPORTED
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(here, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return here
