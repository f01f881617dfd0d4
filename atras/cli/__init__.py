"""The command line: arguments become a Protocol and an Execution, and then one call. Options are made from the table of
settings; torch and polars are imported by the commands that need them, so that `--help` answers at once."""

from .program import app, execute, main, run_app

__all__ = ["app", "execute", "main", "run_app"]
