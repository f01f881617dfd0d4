"""Many comparisons at once: corrected p values, the best of several, and whether a figure is the stated one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from .means import Interval, Mean

Verdict = Literal["holds", "fails", "unresolved"]

EXACT = 14
"""Most seeds whose sign patterns are all counted (16,384); past it they are drawn."""

DRAWS = 10_000
"""Patterns drawn otherwise."""


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given; the chance of any false alarm stays below the level.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def max_t(differences: np.ndarray, *, seed: int = 0) -> tuple[list[float], list[float]]:
    """p values of several mean differences, by flipping the signs of whole seeds, and corrected for their number.

    All comparisons of a seed are flipped together, which keeps what they share: so the correction costs next to nothing
    where many comparisons are of the same few networks. It steps down: a difference is held against the largest of
    those that are not larger than it. No p value is below 2 ** (1 - S): six seeds can show something at 5 %, five
    cannot, for any number of comparisons.

    Args:
        differences: float [S, K]: of each seed, every comparison's difference.
        seed: of the generator, where patterns are drawn.

    Returns:
        K p values, and K corrected ones.

    Source: Westfall and Young, "Resampling-based multiple testing" (1993), section 2.8; with Romano and Wolf,
    "Exact and approximate stepdown methods for multiple hypothesis testing" (2005).
    """
    seeds, count = differences.shape
    if not count:
        return [], []
    if seeds <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=seeds)))
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, (DRAWS, seeds)) * 2.0 - 1
        signs = np.concatenate([np.ones((1, seeds)), drawn])
    # Student's t grows with this share, which flips leave in [0, 1] where t would be infinite.
    length = np.sqrt((differences**2).sum(0))
    shares = np.abs(signs @ (differences / np.where(length > 0, length, 1.0)))
    observed = shares[0] * (1 - 1e-12)  # a pattern of equal size counts, however its sum was rounded
    order = np.argsort(observed)
    largest = np.maximum.accumulate(shares[:, order], axis=1)
    stepped = (largest >= observed[order]).mean(0)
    corrected = np.empty(count)
    corrected[order] = np.maximum.accumulate(stepped[::-1])[::-1]
    return (shares >= observed).mean(0).tolist(), corrected.tolist()


def lead(differences: Sequence[Mean], confidence: float = 0.95) -> Interval:
    """The lead of one group over the best of several others, which the same figures tell: interval and estimate.

    The lead is the least of all differences. Its lower end is the least of theirs: wrong only if that of the truly
    best one is, so that nothing is to be corrected. Its upper end is the least of upper ends that hold all at once.

    Args:
        differences: the group less each of the others, at least one.

    Source: Hsu, "Multiple comparisons" (1996), chapter 4, for one group that is named beforehand; Berger,
    "Multiparameter hypothesis testing and acceptance sampling" (1982), for the lower end; Bonferroni's correction in
    place of Dunnett's, as variances differ.
    """
    value = min(mean.value for mean in differences)
    ends = [
        (mean.interval(confidence).low, mean.interval(1 - (1 - confidence) / len(differences)).high)
        for mean in differences
    ]
    lows = [low for low, _ in ends if low is not None]
    highs = [high for _, high in ends if high is not None]
    if len(lows) < len(ends):
        return Interval(value, None, None)
    return Interval(value, min(lows), min(highs))


def beyond(interval: Interval | None, sign: int, threshold: float = 0.0) -> Verdict:
    """Whether a figure lies above (sign 1) or below (-1) a threshold, by its whole interval."""
    if interval is None or interval.low is None or interval.high is None:
        return "unresolved"
    worst, best = sorted((sign * (interval.low - threshold), sign * (interval.high - threshold)))
    return "holds" if worst > 0 else "fails" if best < 0 else "unresolved"


def equivalent(interval: Interval | None, stated: float, margin: float) -> Verdict:
    """Whether a figure is the stated one but for a margin: holds where its whole interval lies within, fails outside.

    A wide interval that reaches over the margin is unresolved, wherever it lies.

    Source: Schuirmann, "A comparison of the two one-sided tests procedure" (1987); of two tests at 2.5 % each.
    """
    if interval is None or interval.low is None or interval.high is None:
        return "unresolved"
    if stated - margin <= interval.low and interval.high <= stated + margin:
        return "holds"
    return "fails" if interval.high < stated - margin or interval.low > stated + margin else "unresolved"


def p_text(p: float | None, least: float = 1e-4) -> str:
    """A p value with four decimals; one that cannot be smaller, or has no more decimals, with `<`."""
    if p is None:
        return "-"
    # The least value that a test of signs can give is only a bound.
    return f"<{least:.4f}" if p <= least else f"{p:.4f}"
