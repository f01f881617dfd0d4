"""With what certainty a figure is known: one definition of intervals, comparisons, ranks and verdicts for all that
shows or judges figures."""

from .depths import (
    compare_depths,
    depth_intervals,
    depth_means,
    differences_of_depths,
    group_difference,
    leads,
)
from .many import Verdict, beyond, equivalent, holm, lead, max_t, p_text
from .means import (
    ENOUGH_SEEDS,
    Interval,
    Mean,
    Part,
    binomial_part,
    group_mean,
    image_covariance,
    sample_mean,
    seeds_note,
)
from .members import Term, column_terms, members_interval, members_mean, metric_terms, negative, with_images
from .outcomes import kept_images, worst_case
from .pairs import told_apart
from .ranking import (
    RANK_BY,
    chosen_elsewhere,
    eligible,
    independent_images,
    ordered,
    pareto,
    ranking,
    require_alike,
    robust_column,
)

__all__ = [
    "ENOUGH_SEEDS",
    "RANK_BY",
    "Interval",
    "Mean",
    "Part",
    "Term",
    "Verdict",
    "beyond",
    "binomial_part",
    "chosen_elsewhere",
    "column_terms",
    "compare_depths",
    "depth_intervals",
    "depth_means",
    "differences_of_depths",
    "eligible",
    "equivalent",
    "group_difference",
    "group_mean",
    "holm",
    "image_covariance",
    "independent_images",
    "kept_images",
    "lead",
    "leads",
    "max_t",
    "members_interval",
    "members_mean",
    "metric_terms",
    "negative",
    "ordered",
    "p_text",
    "pareto",
    "ranking",
    "require_alike",
    "robust_column",
    "sample_mean",
    "seeds_note",
    "told_apart",
    "with_images",
    "worst_case",
]
