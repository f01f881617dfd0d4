"""The sections of the report, each a module with one function that makes it of a run, and the helpers that several of
them share. A section knows runs, analyses and charts; it knows nothing of other sections, of the register that lists
it, or of the page. The modules of sections are imported only when a report asks for them; helpers stand here."""

from .attack_names import attack_name, file_part
from .attack_rows import Ball, balls, known_attack, mean_accuracies
from .depth_charts import by_depth, depth_chart, depth_label, depth_means, lines_by_depth
from .population import (
    Entry,
    entries,
    evenly_chosen,
    last_test_metrics,
    once_per_run,
    trained_members,
)

__all__ = [
    "Ball",
    "Entry",
    "attack_name",
    "balls",
    "by_depth",
    "depth_chart",
    "depth_label",
    "depth_means",
    "entries",
    "evenly_chosen",
    "file_part",
    "known_attack",
    "last_test_metrics",
    "lines_by_depth",
    "mean_accuracies",
    "once_per_run",
    "trained_members",
]
