"""The command `run`: arguments -> Protocol and Execution -> one call. What is asked is decided elsewhere.

torch and polars are imported inside the functions that need them, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from atras.checks import number, one_of
from atras.errors import InputError, shown, wrapped
from atras.experiment import SETTINGS, Execution, Loaded, Protocol, combine, parse_seeds, parse_whole, settings_of
from atras.networks import told_member
from atras.running import choose_reporter

from .command_options import CommandOptions
from .compute import compute, folder_of, print_json, show, stoppable
from .generated_options import command_class, with_options
from .output import Ended, print_lines, terminal_width

if TYPE_CHECKING:
    from atras.results import Results

_OWN = settings_of(CommandOptions)
_ASKED = {key: setting for key, setting in SETTINGS.items() if not setting.option.recorded}

OTHER_PLAN = "planned anew: the options given change what the recorded plan was made for"

RunCommand = command_class(_ASKED.values())
"""The class of the command, which shows its help."""


@with_options([*_ASKED.values(), *_OWN.values()])
def run(**given: Any) -> None:
    """Train, attack, defend and re-attack every candidate, then show the table.

    Without options: the paper's 40 architectures on the bundled handwritten digits.
    """
    written = {name: value for name, value in given.items() if value is not None and value != []}
    command = CommandOptions(**{name: value for name, value in written.items() if name in _OWN})
    if command.resume is not None:
        _refuse_beside_resume(written)
    settings = {name: value for name, value in written.items() if name in _ASKED}
    loaded = _load(command)
    protocol, execution, plan = combine(loaded, settings)
    if command.print_config:
        from atras.experiment import config_lines

        print_lines(config_lines(protocol, execution))
        return
    left_out = loaded.plan is not None and plan is None and command.resume is None
    seeds = () if command.confirm_seeds is None else parse_seeds(command.confirm_seeds, "confirm_seeds")
    if seeds and command.resume is None:
        from atras.running import check_fresh

        check_fresh(protocol, seeds, command.out or "runs", execution.shard)
    if command.machines is not None or command.machine_speed is not None:
        _price_elsewhere(protocol, execution, command)
        return
    searching = (command.search, command.budget, command.rank_by)
    if any(option is not None for option in searching) or _is_search(command.resume):
        results = _search(protocol, execution, command, seeds)
    else:
        note = OTHER_PLAN if left_out else ""
        results = compute(protocol, execution, command, plan=plan, note=note, confirm_seeds=seeds)
    if results is None or not command.fail_on_diverged:
        return
    diverged = [told_member(*names) for names in results.members("diverged")]
    if diverged:
        raise Ended(f"diverged: {', '.join(diverged)}", 3)


def _price_elsewhere(protocol: Protocol, execution: Execution, command: CommandOptions) -> None:
    """Show what a run would take on machines that are not here."""
    from atras.planning import Machines
    from atras.running import lines_elsewhere

    if command.machines is None or not command.dry_run or command.search is not None or command.resume is not None:
        given = "machines" if command.machines is not None else "machine_speed"
        raise InputError(
            f"{given}: expected with {'--dry-run' if command.machines else '--machines'}, for a run that begins: it "
            "prices a plan; write --dry-run --machines 64xcpu:2"
        )
    machines, told = Machines.parse(command.machines), _machine_speed(command.machine_speed)
    with contextlib.closing(choose_reporter(command.quiet)) as reporter:
        print_lines(lines_elsewhere(protocol, execution, machines, told, reporter, terminal_width()))


def _machine_speed(text: str | None) -> float | None:
    """FLOPs a second from TFLOP/s as they are written."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"machine_speed (={shown(text)}): expected TFLOP/s; write for example 0.5") from None
    number("machine_speed", value, 1e-6, 1e6)
    return 1e12 * value


def _search(
    protocol: Protocol, execution: Execution, command: CommandOptions, seeds: tuple[int, ...]
) -> Results | None:
    from atras.analysis import RANK_BY, caution_lines, json_text, pareto_lines, search_data, summary_lines
    from atras.search import SUMMARY, data_cautions, rank_by_of, resume, round_lines, search

    most = 0 if command.resume is not None else _most(command)
    rank_by = command.rank_by or "accuracy"
    one_of("rank_by", rank_by, RANK_BY)
    if command.dry_run:
        with contextlib.closing(choose_reporter(command.quiet)) as reporter:
            width = terminal_width()
            cautions = data_cautions(protocol, execution, reporter.decoding)
            print_lines([*round_lines(protocol, most, width), *wrapped(cautions, width)])
        return None
    with folder_of(command, protocol) as folder, stoppable(folder / SUMMARY) as signals:
        arguments: Any = {"reporter": lambda: choose_reporter(command.quiet), "stop": signals.stop}
        if command.resume is None:
            results = search(protocol, execution, most, folder, rank_by=rank_by, confirm_seeds=seeds, **arguments)
        else:
            asked: Any = {"confirm_seeds": seeds, "take_over": command.take_over}
            results = resume(folder, protocol, execution, **asked, **arguments)
    ranked_by = rank_by_of(folder)
    if command.json:
        print_json(json_text(search_data(results, ranked_by)))
        return results
    width = terminal_width()
    told = caution_lines(results, width) if command.quiet else ()
    finalists = summary_lines(results, width, rank_by=ranked_by)
    show([*pareto_lines(results, ranked_by, width), "", "finalists, of the last round", *finalists, *told], folder)
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
