"""The command line's options, made from the table of settings."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
import typer.core

from atras.errors import printable
from atras.experiment import Setting
from atras.version import __version__

Command = Callable[..., None]

PANELS = ("Data", "Population", "Model", "Training", "Attack", "Execution", "Output")
"""The headings of `--help`, in their order."""


def with_options(settings: Iterable[Setting]) -> Callable[[Command], Command]:
    """A decorator that gives a command the signature from which typer makes its options.

    Args:
        settings: those that it takes as keywords: what was written for each, None where nothing was. `version` is
            added to them.
    """
    parameters = [_parameter(setting) for setting in sorted(settings, key=lambda each: PANELS.index(each.panel))]
    parameters.append(_keyword("version", Version))

    def give(command: Command) -> Command:
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return give


def _parameter(setting: Setting) -> inspect.Parameter:
    is_truth = setting.type is bool
    kind: Any = bool if is_truth else list[str] if setting.option.repeat else str
    option = typer.Option(
        *([_flags(setting)] if is_truth else setting.flags),
        metavar=setting.option.metavar or "|".join(setting.words) or None,
        help=help_line(setting),
        rich_help_panel=setting.panel,
        show_default=False,
        autocompletion=_completion(setting),
    )
    return _keyword(setting.key, Annotated[kind | None, option])


def _completion(setting: Setting) -> Callable[[str], list[str]] | None:
    """What a shell offers behind an option: the words or names that it knows; None where a file may stand there."""
    if setting.option.path or not (setting.words or setting.option.choices is not None):
        return None

    def complete(incomplete: str) -> list[str]:
        known = [*setting.words, *(setting.option.named if setting.option.choices is not None else ())]
        return [word for word in dict.fromkeys(known) if word.startswith(incomplete)]

    return complete


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flags(setting: Setting) -> str:
    """The names of an option without a value: with its negation where it holds by default."""
    return f"{setting.flag}/--no-{setting.flag.removeprefix('--')}" if setting.default else setting.flag


def help_line(setting: Setting) -> str:
    """A setting's line in `--help`."""
    default = setting.shown_default
    return f"{setting.option.help} (default: {default})" if default else setting.option.help


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


def command_class(settings: Iterable[Setting]) -> type[typer.core.TyperCommand]:
    """The class of a command whose help ends with the values that go by a name."""
    named = [setting for setting in settings if setting.option.named]

    class CommandWithNames(typer.core.TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            # Now and not before: a class may be registered, or a package be installed, at any time.
            formatter.write("\n".join(line for setting in named for line in name_lines(setting, formatter.width)))

    return CommandWithNames


def name_lines(setting: Setting, width: int = 78) -> list[str]:
    """The names that an option knows, each with its meaning, as plain text."""
    names = setting.option.named
    column = max(map(len, names)) + 2
    lines = [f" {setting.option.metavar.rpartition('|')[2]} of {setting.flags[-1]}:"]
    for name, text in names.items():
        first, rest = f"   {printable(name):<{column}}", " " * (column + 3)
        lines += textwrap.wrap(printable(text), width, initial_indent=first, subsequent_indent=rest)
    return [*lines, ""]
