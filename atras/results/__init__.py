"""A run's figures: the schema of every frame, frames as files with checksums, `Results` as they are read, and the
writer of a run's folder. Knows storage; nothing of how the figures were computed."""

from .frames import NORMAL_95, check_rows, empty, wilson
from .meanings import FIELDS, STRENGTH, measured_at, strengths
from .results import Final, Results, read, read_run, run_json
from .schemas import ACCURACIES, COMPUTED, FRAMES, PAPER_COLUMNS, SCHEMAS, STATUSES, dtypes
from .writer import Writer, rows_of_members

__all__ = [
    "ACCURACIES",
    "COMPUTED",
    "FIELDS",
    "FRAMES",
    "NORMAL_95",
    "PAPER_COLUMNS",
    "SCHEMAS",
    "STATUSES",
    "STRENGTH",
    "Final",
    "Results",
    "Writer",
    "check_rows",
    "dtypes",
    "empty",
    "measured_at",
    "read",
    "read_run",
    "rows_of_members",
    "run_json",
    "strengths",
    "wilson",
]
