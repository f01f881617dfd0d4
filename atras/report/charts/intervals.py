"""How well a figure is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from atras.analysis import statistics
from atras.results.frames import wilson


class Estimate(NamedTuple):
    """A mean and its 95 % interval; None where there is nothing to take it from."""

    mean: float | None
    low: float | None = None
    high: float | None = None


def bootstrap_mean(values: Sequence[float]) -> Estimate:
    """Mean and bootstrap interval of at least one value; no interval of a single one."""
    return Estimate(*statistics.bootstrap_mean(values))


def estimate(accuracies: Sequence[float | None], n: int | None) -> Estimate:
    """Accuracy of a candidate: over seeds the bootstrap's interval, of a single member Wilson's.

    Args:
        accuracies: one a seed; those that are None are left out.
        n: images each was measured on; None where that is not known.
    """
    known = [value for value in accuracies if value is not None]
    if not known:
        return Estimate(None)
    if len(known) == 1 and n:
        return Estimate(known[0], *wilson(round(known[0] * n), n))
    return bootstrap_mean(known)
