"""Every two of many candidates, on the same seeds and images: which of them the figures tell apart."""

from __future__ import annotations

import numpy as np

from .means import binomial_part, image_covariance

PRIOR = 4.0
"""Degrees of freedom with which candidates' spreads over seeds are drawn towards their mean: how alike they are. The
paper's 40 candidates on digits with ten seeds have 3.8 by the estimate of Smyth (2004, section 6.2). Two or three seeds
could not tell, and to take all spreads for equal separates equal candidates in one run of five."""

DRAWS = 2000
"""Draws of all candidates' errors at once; fewer of many candidates, at least LEAST_DRAWS."""

LEAST_DRAWS = 1000
NUMBERS = 2**27
"""Most differences that are drawn in all, from LEAST_DRAWS on."""

CHUNK = 2**22
"""Differences drawn at a time, to bound memory."""


def told_apart(
    accuracies: np.ndarray,
    images: int,
    right: np.ndarray | None = None,
    *,
    whole: np.ndarray | None = None,
    level: float = 0.05,
) -> np.ndarray:
    """Which pairs of candidates differ, so that with 95 % not one of all pairs is separated in vain.

    The variance of a difference is that of both candidates over seeds, and that of the images, which both share. A
    spread over few seeds is known badly: each is drawn towards the mean of all (a moderated t). The critical value is
    that of the largest of all studentised differences, found by drawing errors of all candidates from these variances;
    it is found again without the pairs that differ, until no more do (a stepdown).

    Args:
        accuracies: float [K, S], of candidates and seeds, at least two of each.
        images: test images behind each; 0 where that is not known.
        right: bool [K, S, N], image by image; None to take what images add for independent, by the binomial
            distribution.
        whole: bool [K], candidates that trained with every seed; the others have their own spread. None for all.
        level: chance of any false difference.

    Returns:
        bool [K, K]: whether the one is better than the other.

    Source: Mogstad, Romano, Shaikh and Wilhelm, "Inference for ranks with applications to mobility across
    neighbourhoods and academic achievement across countries" (2024), sections 3.2 and 3.4; for the
    variances Smyth, "Linear models and empirical Bayes methods for assessing differential expression" (2004).
    """
    count, seeds = accuracies.shape
    freedom = seeds - 1.0
    own = accuracies.var(1, ddof=1)
    alike = np.ones(count, dtype=bool) if whole is None else whole
    middle = own[alike].mean() if alike.any() else own.mean()
    moderated = (PRIOR * middle + freedom * own) / (PRIOR + freedom)
    moderated = np.where(alike, moderated, np.maximum(moderated, own)) / seeds
    of_images = _image_part(accuracies.mean(1), images, right)
    image_variances = of_images.diagonal()
    a, b = np.triu_indices(count, 1)
    variances = moderated[a] + moderated[b] + image_variances[a] + image_variances[b] - 2 * of_images[a, b]
    spread = np.sqrt(np.maximum(variances, 1e-24))
    differences = accuracies.mean(1)[a] - accuracies.mean(1)[b]
    errors = _errors(moderated, min(PRIOR + freedom, count * freedom), of_images)
    found = _stepdown(np.abs(differences) / spread, errors, (a, b, spread), level)
    better = np.zeros((count, count), dtype=bool)
    better[a[found & (differences > 0)], b[found & (differences > 0)]] = True
    better[b[found & (differences < 0)], a[found & (differences < 0)]] = True
    return better


def _image_part(means: np.ndarray, images: int, right: np.ndarray | None) -> np.ndarray:
    """Covariances of the candidates' means that come of the images, [K, K]."""
    if right is not None:
        return image_covariance(right)
    if not images:
        return np.zeros((len(means), len(means)))
    return np.diag([binomial_part(float(mean), images).variance for mean in means])


def _errors(seed_variances: np.ndarray, freedom: float, of_images: np.ndarray) -> np.ndarray:
    """Errors of all candidates' means together, [draws, K]."""
    count = len(seed_variances)
    draws = int(np.clip(NUMBERS / count**2, LEAST_DRAWS, DRAWS))
    generator = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(of_images)
    root = vectors * np.sqrt(np.maximum(values, 0.0))  # an estimate of covariances may have a negative direction
    of_seeds = generator.standard_t(freedom, (draws, count)) * np.sqrt(seed_variances)
    return of_seeds + generator.standard_normal((draws, count)) @ root.T


def _stepdown(
    observed: np.ndarray, errors: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray], level: float
) -> np.ndarray:
    """Which of the studentised differences exceed what the largest of those that are left would by chance."""
    found = np.zeros(len(observed), dtype=bool)
    while not found.all():
        a, b, spread = (part[~found] for part in pairs)
        step = max(1, CHUNK // len(a))
        largest = np.concatenate([
            (np.abs(errors[start : start + step, a] - errors[start : start + step, b]) / spread).max(1)
            for start in range(0, len(errors), step)
        ])  # fmt: skip
        more = ~found & (observed > np.quantile(largest, 1 - level))
        if not more.any():
            break
        found |= more
    return found
