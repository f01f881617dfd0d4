"""Means with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from atras.analysis import accuracy_interval, group_interval


class Estimate(NamedTuple):
    """A mean and its 95 % interval; None where there are too few values.

    Args:
        mean: the mean.
        low, high: ends of the interval.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None


def estimate(accuracies: Sequence[float | None], n: int | None) -> Estimate:
    """Accuracy of a candidate over seeds and test images; of a single member with Wilson's interval, of the images.

    Args:
        accuracies: that of each seed; those that are None are left out.
        n: images on which each was measured; None where that is not known.

    Returns:
        The estimate; without an interval where nothing varies, or a single figure is no share of images.
    """
    known = [value for value in accuracies if value is not None]
    return Estimate(*accuracy_interval(known, n)) if known else Estimate(None)


def group_estimate(rows: pl.DataFrame, value: str, n: int | None = None) -> Estimate:
    """Mean over members, for these candidates: over seeds and, of an accuracy, images; with one seed of these alone.

    Args:
        rows: columns hidden_layers, seed and `value`, without nulls in it.
        value: name of the column.
        n: test images where it is an accuracy; None for gains and other differences.

    Returns:
        The estimate; None without rows.
    """
    if not len(rows):
        return Estimate(None)
    return Estimate(*group_interval(rows, value, n))
