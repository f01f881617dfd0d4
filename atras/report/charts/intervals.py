"""Means with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from atras import analysis
from atras.results import wilson


class Estimate(NamedTuple):
    """A mean and its 95 % interval; None where there are too few values.

    Args:
        mean: the mean.
        low, high: ends of the interval.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None


def bootstrap_mean(values: Sequence[float]) -> Estimate:
    """Mean and bootstrap interval.

    Args:
        values: at least one.

    Returns:
        The estimate; without an interval for a single value.
    """
    return Estimate(*analysis.bootstrap_mean(values))


def estimate(accuracies: Sequence[float | None], n: int | None) -> Estimate:
    """Accuracy of a candidate: over seeds with the bootstrap's interval, of a single member with Wilson's.

    Args:
        accuracies: that of each seed; those that are None are left out.
        n: images on which each was measured; None where that is not known.

    Returns:
        The estimate.
    """
    known = [value for value in accuracies if value is not None]
    if not known:
        return Estimate(None)
    if len(known) == 1 and n:
        return Estimate(known[0], *wilson(round(known[0] * n), n))
    return bootstrap_mean(known)
