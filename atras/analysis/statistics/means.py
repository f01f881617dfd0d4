"""Means and the certainty with which they are known: of seeds, of test images, and of both."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from atras.errors import InputError

ENOUGH_SEEDS = 5
"""Seeds from which on an interval is about as wide as it would be with many; fewer are said beside the figure."""

PSEUDO = 4
"""Images added to an image variance, half of them right and half wrong (Agresti and Coull 1998), so that a network that
is right, or wrong, on all images is not certain."""


NOISE = 1e-24
"""Variance of a mean up to which figures are the same: that of equal shares as float64 sums them is below 1e-32."""


class Interval(NamedTuple):
    """A mean with the ends of its interval; the ends are None where nothing says how certain it is."""

    mean: float
    low: float | None
    high: float | None


class Part(NamedTuple):
    """One source of a mean's variance.

    Args:
        variance: what it adds to the variance of the mean.
        freedom: degrees of freedom with which that is known.
    """

    variance: float
    freedom: float


class Mean(NamedTuple):
    """A mean and the independent sources of its variance.

    Args:
        value: the mean.
        parts: those sources; none where nothing says how certain it is.
        low, high: what is possible for it, which no interval leaves: 0 to 1 for an accuracy, -1 to 1 for a difference.
    """

    value: float
    parts: tuple[Part, ...] = ()
    low: float = -math.inf
    high: float = math.inf

    @property
    def variance(self) -> float:
        """Of the mean."""
        return sum(part.variance for part in self.parts)

    def half(self, confidence: float = 0.95) -> float | None:
        """Half the width of the interval; None where nothing varies, which does not make a mean certain.

        Each source has Student's quantile at its own degrees of freedom, weighted by its share of the variance
        (Cochran). Satterthwaite's degrees of freedom, the common choice, cover 87 to 91 % with two seeds that vary more
        than the images do, since a spread of two that happens to be small also raises them; this covers 94 to 98 %, and
        with five seeds the two agree to a few per cent of the width.

        Source: Cochran, "Approximate significance levels of the Behrens-Fisher test" (1964).
        """
        total = self.variance
        if not total > NOISE:
            return None
        quantiles = (-float(special.stdtrit(part.freedom, (1 - confidence) / 2)) for part in self.parts)
        return sum(q * part.variance for q, part in zip(quantiles, self.parts, strict=True)) / math.sqrt(total)

    def interval(self, confidence: float = 0.95) -> Interval:
        """The mean with its interval, within what is possible for it."""
        half = self.half(confidence)
        if half is None:
            return Interval(self.value, None, None)
        return Interval(self.value, max(self.value - half, self.low), min(self.value + half, self.high))

    def p(self) -> float | None:
        """Two-sided p value that the mean is 0: that at which the interval ends there.

        Where nothing varies it is 1 for a mean of 0, such as that of two runs which are the same, and None for others.
        """
        if not self.variance > NOISE:
            return 1.0 if self.parts and self.value == 0 else None
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if (self.half(1 - middle) or 0.0) > abs(self.value):
                low = middle
            else:
                high = middle
        return high


def finite(values: Sequence[float]) -> np.ndarray:
    """Numbers as float64.

    Raises:
        InputError: if there is none, or one is not finite.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data) or not np.isfinite(data).all():
        raise InputError(f"values (={values!r}): expected one or more finite numbers; leave out what is missing")
    return data


def sample_mean(values: Sequence[float]) -> Mean:
    """Mean of independent values, such as one of each seed, with Student's t; of one value without certainty.

    Raises:
        InputError: as `finite`.
    """
    data = finite(values)
    if len(data) < 2:
        return Mean(float(data.mean()))
    return Mean(float(data.mean()), (Part(float(data.var(ddof=1)) / len(data), len(data) - 1),))


def binomial_part(share: float, images: int) -> Part:
    """Variance of a share of test images, from their number alone: at least what images add to a mean over seeds."""
    even = (share * images + PSEUDO / 2) / (images + PSEUDO)
    return Part(even * (1 - even) / (images + PSEUDO), max(images - 1, 1))


def image_covariance(right: np.ndarray) -> np.ndarray:
    """Covariances of the mean accuracies of networks that come of the test images, which all seeds share.

    Right or wrong is y[s, i] = mean + seed[s] + image[i] + rest[s, i]. The spread of accuracies over seeds holds the
    seed and, over the number of images, the rest; it holds nothing of the images, which move all seeds alike. The
    spread of images' means over S seeds holds the images and a share 1 / S of the rest, which is therefore taken away.

    Args:
        right: bool [K, S, N], whether network k with seed s is right on image i.

    Returns:
        float64 [K, K], over the number of images already; a variance is never below that of PSEUDO images.
    """
    networks, seeds, images = right.shape
    means = right.mean(1, dtype=np.float64)
    found = np.cov(means, ddof=1).reshape(networks, networks)
    if seeds > 1:
        rest = right - means[:, None] - right.mean(2, keepdims=True, dtype=np.float64) + means.mean(1)[:, None, None]
        flat = rest.reshape(networks, -1)
        found = found - flat @ flat.T / ((seeds - 1) * (images - 1)) / seeds
    # Half right, half wrong: each of the added images is a half away from the middle.
    least = PSEUDO / 4 / (images + PSEUDO)
    found[np.diag_indices(networks)] = np.maximum(found.diagonal(), 0.0) + least
    return found / (images + PSEUDO)


def outcomes_part(right: np.ndarray) -> Part:
    """What the test images add to the variance of a mean figure over seeds, from that of each seed and image.

    Args:
        right: bool or float64 [S, N]: right or wrong, or a difference of such.
    """
    return Part(float(image_covariance(right[None])[0, 0]), max(right.shape[-1] - 1, 1))


def group_mean(
    values: Sequence[float], candidates: Sequence[Hashable], seeds: Sequence[int], images: int | None = None
) -> Mean:
    """Mean over the members of a group of candidates, for these candidates: what varies are seeds, and test images.

    Members of one seed share batch order and images, so that they are one draw together: the residuals from each
    candidate's own mean are summed by seed. One seed tells nothing of how seeds vary, and the spread of the candidates
    does not stand in: on digits it separates one seed of a protocol from another in a quarter of all comparisons.

    Args:
        values, candidates, seeds: a figure of each member, whose it is, and with which seed.
        images: where the figure is a share of so many test images; None for gains and other differences, which are
            then of these images alone.

    Raises:
        InputError: as `finite`.

    Source: Cameron and Miller, "A practitioner's guide to cluster-robust inference" (2015), section II.
    """
    data = finite(values)
    owners, clusters = (np.unique(list(map(str, keys)), return_inverse=True)[1] for keys in (candidates, seeds))
    count = int(clusters.max()) + 1
    if count == 1:
        mean = Mean(float(data.mean()))
    else:
        means = np.bincount(owners, data) / np.bincount(owners)
        sums = np.bincount(clusters, data - means[owners])
        variance = float((sums**2).sum()) * count / (count - 1) / len(data) ** 2
        mean = Mean(float(data.mean()), (Part(variance, count - 1),))
    if images is None or not images:
        return mean
    return Mean(mean.value, (*mean.parts, binomial_part(min(max(mean.value, 0.0), 1.0), images)))


def seeds_note(seeds: int) -> str:
    """What is to be said beside figures of so few seeds, as a sentence; empty where they suffice."""
    if seeds >= ENOUGH_SEEDS:
        return ""
    if seeds == 1:
        return "One seed: intervals are of the test images alone, and how much seeds vary is not known."
    return f"Only {seeds} seeds: fewer than {ENOUGH_SEEDS} make wide intervals; run with --seeds 0-{ENOUGH_SEEDS - 1}."
