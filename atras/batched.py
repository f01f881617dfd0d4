"""`python -m atras.batched`: the command `atras run` under the name of the project's main job."""

from __future__ import annotations

import sys

import typer

from atras.cli import execute, run

if __name__ == "__main__":
    program = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    program.command()(run)
    sys.exit(execute(program, sys.argv[1:], "python -m atras.batched"))
