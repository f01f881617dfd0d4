"""The output of the commands, and the end of a command with a message and an exit status."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from atras.errors import InputError, printable

if TYPE_CHECKING:
    from atras.results import Results


class Ended(Exception):  # noqa: N818 (nothing went wrong)
    """The end of a command with a line on standard error and a status of its own."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


NARROWEST = 60
"""Columns below which nothing is laid out."""


def terminal_width() -> int:
    """Columns that text is laid out for: the terminal's, of which there are 80 where there is no terminal."""
    return max(shutil.get_terminal_size().columns, NARROWEST)


def print_lines(lines: Iterable[str]) -> None:
    """Print text that may hold names of files, which a terminal shows and does not obey.

    Raises:
        BrokenPipeError: if its reader is gone.
        InputError: if it cannot be written otherwise.
    """
    print_text("\n".join(map(printable, lines)))


def read_results(folder: str, variant: str | None = None) -> Results:
    """The results in a run's folder, or of a search's last finished round, which is told on standard error.

    Args:
        folder: the run's.
        variant: which one alone, of a run with axes; None for the whole run.

    Raises:
        InputError: as `results.read`.
    """
    from atras.results import read
    from atras.search import is_search, last_round

    if is_search(folder):
        path, told = last_round(folder)
        typer.echo(printable(told), err=True)
        results = read(path)
    else:
        results = read(folder)
    return results if variant is None else results.of_variant(variant)


def print_text(text: str) -> None:
    """Print text as it is, for programs: JSON or CSV.

    Raises:
        BrokenPipeError: if its reader is gone.
        InputError: if it cannot be written otherwise.
    """
    try:
        typer.echo(text, nl=not text.endswith("\n"))
    except BrokenPipeError:
        raise
    except OSError as error:
        silence()
        raise InputError(
            f"standard output: expected to write to it: {error.strerror or error}; make room, or send it elsewhere"
        ) from error


def silence() -> None:
    """Let go of a standard output that cannot be written to: Python would try once more when it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
