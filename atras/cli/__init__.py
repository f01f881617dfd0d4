"""The command line: arguments become a Protocol and an Execution, and then one call. No logic of its own; torch and
polars are imported by the commands that need them, so that `--help` answers at once."""

from .run_command import execute, main, run

__all__ = ["execute", "main", "run"]
