"""The command line: arguments -> Protocol and Execution -> one call. What is asked is decided elsewhere.

torch, polars and pydantic are imported inside the functions that need them, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from atras.attacks import ATTACKS
from atras.checks import one_of
from atras.defences import DEFENCES
from atras.errors import InputError, Interrupted, printable
from atras.experiment import (
    ENGINES,
    EXECUTORS,
    PRESETS,
    Activation,
    Execution,
    Initialisation,
    LabelSource,
    Loaded,
    OptimizerName,
    Precision,
    Protocol,
    combine,
    parse_whole,
)
from atras.running import Signals, choose_reporter
from atras.version import __version__

from . import commands

if TYPE_CHECKING:
    from atras.results import Results

_IMPORTED = time.perf_counter()
# typer carries click under a name that changes between versions; the class above BadParameter is click's UsageError.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main(args: list[str] | None = None) -> None:
    """The command `atras`: runs it and exits.

    The status is 0 when done, 2 for bad input, 3 for members that diverged where `--fail-on-diverged` asks, and 129,
    130 or 143 after SIGHUP, SIGINT or SIGTERM.
    """
    args = sys.argv[1:] if args is None else args
    sys.exit(execute(app, args or ["--help"], "atras"))


def execute(program: typer.Typer, args: list[str], name: str) -> int:
    """Run a typer program and turn what its user did wrong into one line on standard error.

    Args:
        program: the program.
        args: its arguments, without its name.
        name: what its usage line calls it.

    Returns:
        The exit status.
    """
    command = typer.main.get_command(program)
    try:
        status = command.main(args=args, prog_name=name, standalone_mode=False)
    except InputError as error:
        return _fail(str(error))
    except _Ended as end:
        return _fail(str(end), end.status)
    except _UsageError as error:
        return _fail(_usage_message(error))
    except ImportError:
        if find_spec("atras.kernels") is not None:
            raise
        return _fail("the package atras.kernels is not installed; run `pip install .` in the source tree")
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    if status == 130:
        _fail("interrupted")
    return status or 0


class _Ended(Exception):  # noqa: N818 (nothing went wrong)
    """The end of a run that has something to say and a status of its own."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _fail(message: str, status: int = 2) -> int:
    with contextlib.suppress(OSError):  # the terminal may be gone
        typer.echo(f"atras: {printable(' '.join(message.split()))}", err=True)
    return status


def _usage_message(error: Exception) -> str:
    option, near = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if near:
        return f"no such option {option}; did you mean {near[0]}?"
    text = error.format_message().rstrip(".") if hasattr(error, "format_message") else str(error)
    return f"{text[:1].lower()}{text[1:]}; see --help"


def _option(panel: str, text: str, default: object = None, *names: str, metavar: str | None = None) -> Any:
    text = text if default is None else f"{text} (default: {default})"
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel, show_default=False)


def _choice(values: object) -> str:
    return "|".join(get_args(values))


def _show_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"atras {__version__}")
        raise typer.Exit


Version = Annotated[
    bool | None,
    typer.Option(
        "--version", help="Show the version and exit.", callback=_show_version, is_eager=True, show_default=False
    ),
]

app = typer.Typer(
    name="atras",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Train, attack, defend and re-attack a whole population of networks as one program.",
)


for _command in (commands.claims, commands.compare, commands.export, commands.report):
    app.command()(_command)


@app.callback()
def _atras(version: Version = None) -> None:
    """Without a command, `atras` shows its help."""


@app.command()
def run(
    dataset: Annotated[
        str | None,
        _option(
            "Data",
            "digits, mnist, fashion-mnist, kmnist, cifar10, cifar100, svhn, a folder of IDX files or an .npz file",
            Protocol.dataset,
            metavar="NAME",
        ),
    ] = None,
    data_dir: Annotated[
        str | None, _option("Data", "folder that holds data sets (default: $ATRAS_DATA, then the cache)", metavar="DIR")
    ] = None,
    download: Annotated[bool | None, _option("Data", "get a missing data set from its source", "download")] = None,
    train_size: Annotated[
        str | None, _option("Data", "first images to train on, or all", "5000 or fewer", metavar="N")
    ] = None,
    test_size: Annotated[
        str | None, _option("Data", "first images to test on, or all", "5000 or fewer", metavar="N")
    ] = None,
    preset: Annotated[
        str | None,
        _option(
            "Population",
            "protocol to start from; paper is a reconstruction of what the paper leaves open",
            "paper",
            metavar="|".join(PRESETS),
        ),
    ] = None,
    hidden: Annotated[
        list[str] | None,
        _option("Population", "one candidate's hidden layers; may be repeated", "the paper's 40", metavar="24,192"),
    ] = None,
    depth: Annotated[
        list[str] | None,
        _option("Population", "keep candidates with so many hidden layers; 1,2 or repeated", "all", metavar="N"),
    ] = None,
    base_widths: Annotated[
        str | None,
        _option("Population", "first layers' widths of k-complete candidates", "8,16,...,64", metavar="8,16"),
    ] = None,
    factors: Annotated[
        str | None, _option("Population", "growth from layer to layer", "2,4,8,16,32", metavar="2,4")
    ] = None,
    max_width: Annotated[str | None, _option("Population", "widest layer", 1024, metavar="N")] = None,
    seeds: Annotated[
        str | None, _option("Population", "each candidate once with each: 0-4 or 0,3,7", 0, metavar="0-4")
    ] = None,
    search: Annotated[
        str | None,
        _option("Population", "train all a little and the better half on, round by round", metavar="halving"),
    ] = None,
    budget: Annotated[
        str | None, _option("Population", "most candidate-epochs that a search may take", metavar="N")
    ] = None,
    stem: Annotated[
        str | None,
        _option(
            "Model",
            "convolutions before the hidden layers",
            f"{Protocol.stem}, by image",
            metavar="auto|none|conv2|conv4",
        ),
    ] = None,
    activation: Annotated[
        str | None, _option("Model", "of hidden units", Protocol.activation, metavar=_choice(Activation))
    ] = None,
    initialisation: Annotated[
        str | None, _option("Model", "of weights", Protocol.initialisation, metavar=_choice(Initialisation))
    ] = None,
    head_dropout: Annotated[
        str | None, _option("Model", "share of hidden units dropped in training", Protocol.head_dropout, metavar="X")
    ] = None,
    epochs: Annotated[
        str | None,
        _option("Training", "passes over the training set, clean and then with attacks", Protocol.epochs, metavar="N"),
    ] = None,
    adversarial_epochs: Annotated[
        str | None, _option("Training", "passes over the set with attacks, if not the same", "--epochs", metavar="N")
    ] = None,
    batch_size: Annotated[str | None, _option("Training", "images a step", Protocol.batch_size, metavar="N")] = None,
    optimizer: Annotated[
        str | None, _option("Training", "update rule", Protocol.optimizer, metavar=_choice(OptimizerName))
    ] = None,
    learning_rate: Annotated[
        str | None, _option("Training", "size of an update", Protocol.learning_rate, metavar="X")
    ] = None,
    momentum: Annotated[str | None, _option("Training", "of sgd", Protocol.momentum, metavar="X")] = None,
    epsilon: Annotated[
        str | None,
        _option("Attack", "largest change of a pixel in 0 to 1; 0.05 or 8/255", Protocol.epsilon, metavar="X"),
    ] = None,
    label_source: Annotated[
        str | None,
        _option("Attack", "whose label it moves away from", Protocol.label_source, metavar=_choice(LabelSource)),
    ] = None,
    target: Annotated[
        str | None,
        _option(
            "Attack", "move towards class:3, random or least-likely", Protocol.target, "--targeted", metavar="CLASS"
        ),
    ] = None,
    attacks: Annotated[
        list[str] | None,
        _option(
            "Attack",
            "also evaluate this one, at the true label; may be repeated",
            "fgsm",
            "--attack",
            metavar="|".join(ATTACKS),
        ),
    ] = None,
    epsilons: Annotated[
        str | None, _option("Attack", "also evaluate fgsm at these strengths", "none", metavar="0,0.02,8/255")
    ] = None,
    defence: Annotated[
        str | None, _option("Attack", "how the second training defends", Protocol.defence, metavar="|".join(DEFENCES))
    ] = None,
    transfer: Annotated[
        bool | None, _option("Attack", "evaluate every candidate on every other one's attack", None, "--transfer")
    ] = None,
    precision: Annotated[
        str | None, _option("Execution", "of training", Protocol.precision, metavar=_choice(Precision))
    ] = None,
    engine: Annotated[
        str | None, _option("Execution", "how members are computed", "auto", metavar="|".join(["auto", *ENGINES]))
    ] = None,
    executor: Annotated[
        str | None, _option("Execution", "who computes the groups", "local", metavar="|".join(EXECUTORS))
    ] = None,
    device: Annotated[str | None, _option("Execution", "auto, cpu, cuda or cuda:N", "auto", metavar="NAME")] = None,
    memory: Annotated[
        str | None, _option("Execution", "most a group may need: 4GiB, 512MiB", "what is free", metavar="SIZE")
    ] = None,
    recalibrate: Annotated[
        bool | None, _option("Execution", "measure this machine's speed anew", None, "--recalibrate")
    ] = None,
    checkpoint_every: Annotated[
        str | None,
        _option(
            "Execution", "seconds between checkpoints", f"{Execution.checkpoint_every:g}, or more", metavar="SECONDS"
        ),
    ] = None,
    resume: Annotated[
        str | None,
        _option("Execution", "go on with the run or search in this folder; nothing else is needed", metavar="DIR"),
    ] = None,
    config: Annotated[
        str | None,
        _option("Execution", "run.toml, or an earlier run's run.json; other options outrank it", metavar="FILE"),
    ] = None,
    dry_run: Annotated[
        bool | None, _option("Execution", "show the plan and its cost, run nothing", None, "--dry-run")
    ] = None,
    evaluate_every: Annotated[
        str | None,
        _option("Output", "epochs between test accuracies; 0 for none", Protocol.evaluate_every, metavar="N"),
    ] = None,
    out: Annotated[
        str | None, _option("Output", "folder for the results", "runs/<dataset>-<time>", metavar="DIR")
    ] = None,
    fail_on_diverged: Annotated[
        bool | None, _option("Output", "exit with status 3 if a member diverged", None, "--fail-on-diverged")
    ] = None,
    quiet: Annotated[bool | None, _option("Output", "no progress, only the results", None, "--quiet")] = None,
    version: Version = None,
) -> None:
    """Train, attack, defend and re-attack every candidate, then show the table.

    Without options: the paper's 40 architectures on the bundled handwritten digits.
    """
    given = locals()
    settings = {name: value for name, value in given.items() if value is not None and value != []}
    if resume is not None:
        _refuse_beside_resume(settings)
    protocol, execution, plan = combine(_load(config, resume), settings)
    if search is not None or budget is not None or _is_search(resume):
        results = _search(search, budget, protocol, execution, resume, out, dry_run, quiet)
    else:
        results = _run(protocol, execution, plan, resume, out, dry_run, quiet)
    if results is None or not fail_on_diverged:
        return
    diverged = [f"{name} (seed {seed})" for name, seed in results.members("diverged")]
    if diverged:
        raise _Ended(f"diverged: {', '.join(diverged)}", 3)


def _run(
    protocol: Protocol,
    execution: Execution,
    plan: dict[str, Any] | None,
    resume: str | None,
    out: str | None,
    dry_run: bool | None,
    quiet: bool | None,
) -> Results | None:
    from atras.running import make_plan
    from atras.running import resume as go_on
    from atras.running import run as begin

    if dry_run:
        commands.print_lines(make_plan(protocol, execution, plan).lines())
        return None
    folder = Path(resume or out or _default_folder(protocol.dataset))
    reporter = choose_reporter(bool(quiet))
    with _stoppable(folder / "run.json") as signals:
        common: Any = {"reporter": reporter, "startup_seconds": _seconds_since_start(), "stop": signals.stop}
        try:
            if resume is None:
                results = begin(protocol, execution, out=folder, config_plan=plan, **common)
            else:
                results = go_on(folder, protocol, execution, **common)
        finally:
            reporter.close()
    from atras.analysis import summary_lines

    _show(summary_lines(results, shutil.get_terminal_size().columns), folder)
    return results


def _search(
    method: str | None,
    budget: str | None,
    protocol: Protocol,
    execution: Execution,
    resume: str | None,
    out: str | None,
    dry_run: bool | None,
    quiet: bool | None,
) -> Results | None:
    from atras.search import SUMMARY, pareto_lines, round_lines
    from atras.search import resume as go_on
    from atras.search import search as begin

    most = 0 if resume is not None else _most(method, budget)
    if dry_run:
        commands.print_lines(round_lines(protocol, most))
        return None
    folder = Path(resume or out or _default_folder(protocol.dataset))
    with _stoppable(folder / SUMMARY) as signals:
        common: Any = {"reporter": lambda: choose_reporter(bool(quiet)), "stop": signals.stop}
        if resume is None:
            results = begin(protocol, execution, most, folder, **common)
        else:
            results = go_on(folder, protocol, execution, **common)
    _show(pareto_lines(results), folder)
    return results


def _most(method: str | None, budget: str | None) -> int:
    one_of("search", method, ("halving",))
    if budget is None:
        raise InputError("budget: expected with --search, none came; add --budget N, in candidate-epochs")
    return parse_whole(budget, "budget")


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
            raise _Ended(f"interrupted{more}", signals.status) from None


def _show(lines: Iterable[str], folder: Path) -> None:
    try:
        commands.print_lines([*lines, f"results are in {folder}"])
    except (OSError, InputError):
        commands.silence()  # the terminal or pipe is gone, the results are not


def _refuse_beside_resume(settings: dict[str, Any]) -> None:
    for name in ("config", "out", "dry_run", "search", "budget"):
        if name in settings:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"resume and {option} exclude each other: a run goes on where and as it began")


def _load(path: str | None, resume: str | None) -> Loaded:
    if resume is not None:
        from atras.running import recorded as run_recorded
        from atras.search import is_search
        from atras.search import recorded as search_recorded

        return search_recorded(resume) if is_search(resume) else run_recorded(resume)
    if path is None:
        return Loaded()
    from atras.experiment import load_config

    return load_config(path)


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
