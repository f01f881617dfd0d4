"""The programs: `atras` with its commands, and how what their user did wrong becomes one line."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.util import find_spec

import typer

from atras.errors import InputError, printable
from atras.experiment import REMOVED

from . import commands, inspect_commands
from .attack_command import AttackCommand, attack
from .generated_options import Version
from .output import Ended
from .run_command import RunCommand, run

# typer carries click under a name that changes between versions; the class above BadParameter is click's UsageError.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

SPINS = "10000"
"""GNU's default is 300,000."""

app = typer.Typer(
    name="atras",
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Train, attack, defend and re-attack a whole population of networks as one program.",
)
"""The program `atras`."""

run_app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
"""The command `run` as a program of its own."""


@app.callback()
def _atras(version: Version = None) -> None:
    """Without a command, `atras` shows its help."""


for _command in (commands.claims, commands.compare, commands.export, commands.report):
    app.command()(_command)
app.command(cls=AttackCommand)(attack)
app.command("list")(inspect_commands.list_runs)
app.command()(inspect_commands.show)
app.command()(inspect_commands.merge)
for _program in (app, run_app):
    _program.command(cls=RunCommand)(run)


def main(args: list[str] | None = None) -> None:
    """The command `atras`: runs it and exits.

    The status is 0 when done, 2 for bad input, 3 for members that diverged where `--fail-on-diverged` asks, and
    128 + n after signal n: 130 after SIGINT, 143 after SIGTERM; also SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU.
    """
    args = sys.argv[1:] if args is None else args
    sys.exit(execute(app, args or ["--help"], "atras"))


def let_waiting_threads_sleep() -> None:
    """Let OpenMP's threads spin for tens of microseconds, not milliseconds, before they sleep; what is set stays.

    Else they keep the kernels' own threads from their cores. The variable is read when torch is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def execute(program: typer.Typer, args: list[str], name: str) -> int:
    """Run a typer program and turn what its user did wrong into one line on standard error.

    Args:
        program: the program.
        args: its arguments, without its name.
        name: what its usage line calls it.

    Returns:
        The exit status.
    """
    let_waiting_threads_sleep()
    command = typer.main.get_command(program)
    try:
        status = command.main(args=args, prog_name=name, standalone_mode=False)
    except InputError as error:
        return _fail(str(error))
    except Ended as end:
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


def _fail(message: str, status: int = 2) -> int:
    with contextlib.suppress(OSError):  # the terminal may be gone
        typer.echo(f"atras: {printable(' '.join(message.split()))}", err=True)
    return status


def _usage_message(error: Exception) -> str:
    option, near = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    removed = REMOVED.get(str(option).removeprefix("--").replace("-", "_"))
    if removed:
        return f'{option} is no longer an option; write for example --{removed[0]} "{removed[1]}"'
    if near:
        return f"no such option {option}; did you mean {near[0]}?"
    text = error.format_message().rstrip(".") if hasattr(error, "format_message") else str(error)
    return f"{text[:1].lower()}{text[1:]}; see --help"
