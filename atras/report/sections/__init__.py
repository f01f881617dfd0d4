"""The sections of the report, each a module with one function that makes it of a run, and the helpers that several of
them share. A section knows runs, analyses and charts; it knows nothing of other sections, of the register that lists
it, or of the page. The modules of sections are imported only when a report asks for them; helpers stand here."""

from .attack_names import attack_name, file_part
from .depth_charts import by_depth, depth_chart, depth_label, depth_means, lines_by_depth
from .population import (
    Entry,
    counted,
    entries,
    evenly_chosen,
    last_test_metrics,
    most_robust,
    once_per_run,
    trained_members,
)

__all__ = [
    "Entry",
    "attack_name",
    "by_depth",
    "counted",
    "depth_chart",
    "depth_label",
    "depth_means",
    "entries",
    "evenly_chosen",
    "file_part",
    "last_test_metrics",
    "lines_by_depth",
    "most_robust",
    "once_per_run",
    "trained_members",
]
