"""Means with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from atras.analysis import Term, members_interval


class Estimate(NamedTuple):
    """A mean and its 95 % interval; None where there are too few values.

    Args:
        mean: the mean.
        low, high: ends of the interval.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None


def group_estimate(rows: pl.DataFrame, value: str, terms: Sequence[Term] = (), n: int | None = None) -> Estimate:
    """Mean over members, for these candidates: over seeds and test images; with one seed of these alone.

    Args:
        rows: columns hidden_layers, seed and `value`; rows with null in it are left out.
        value: name of the column.
        terms: the accuracies that it is a sum of, as `analysis.column_terms` has them; none for other figures.
        n: test images behind each; None where that is not known.

    Returns:
        The estimate; None without rows.
    """
    known = rows.drop_nulls(value)
    return Estimate(*members_interval(known, value, terms, n)) if len(known) else Estimate(None)
