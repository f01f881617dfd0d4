"""With what certainty a figure is known: intervals, paired tests, rankings with ties and the Pareto front."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy import special

from atras.checks import one_of
from atras.errors import InputError
from atras.evaluation import BALANCED
from atras.results import Results, wilson

RANK_BY = ("accuracy", "balanced")
"""What candidates may be ranked by: the robust accuracy, or its mean over classes."""

EXACT = 14
"""Most differences whose sign patterns are all counted (16,384); past it they are drawn."""

CHUNK = 2**20
"""Numbers resampled at a time, to bound memory."""


class Interval(NamedTuple):
    """A mean with the ends of its interval; the ends are None where one value is all there is."""

    mean: float
    low: float | None
    high: float | None


def bootstrap_mean(
    values: Sequence[float], *, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Mean and bootstrap interval: the expanded percentile interval, equal bits for equal arguments.

    The plain percentile interval of n values is too narrow by the root of (n - 1) / n and by the normal quantile's
    difference from Student's; the percentiles are moved outwards to make up for both. Below five values the interval
    cannot leave their range and still covers too little.

    Args:
        values: finite numbers, at least one.
        resamples: samples drawn with replacement.
        confidence: wanted coverage, in (0, 1).
        seed: of the generator, which is this call's own.

    Raises:
        InputError: if there is no value, or one is not finite.

    Source: Hesterberg, "What teachers should know about the bootstrap" (2015), section 4.5.
    """
    data = _finite(values)
    n, mean = len(data), float(data.mean())
    if n == 1:
        return Interval(mean, None, None)
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // n)
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    means = np.concatenate([data[generator.integers(0, n, (size, n))].mean(1) for size in sizes])
    tail = float(special.ndtr(np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, (1 - confidence) / 2)))
    low, high = np.quantile(means, [tail, 1 - tail])
    # Sums in another order may differ in the last bit; the mean belongs into its interval.
    return Interval(mean, min(float(low), mean), max(float(high), mean))


def mean_difference(left: Sequence[float], right: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Difference of two means (left - right) of unpaired values, with Welch's interval where each side has two.

    Raises:
        InputError: if a side has no value, or one is not finite.

    Source: Welch, "The generalization of 'Student's' problem" (1947).
    """
    a, b = _finite(left), _finite(right)
    difference = float(a.mean() - b.mean())
    if len(a) < 2 or len(b) < 2:
        return Interval(difference, None, None)
    u, v = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if u + v == 0:
        return Interval(difference, difference, difference)
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
    half = float(-special.stdtrit(freedom, (1 - confidence) / 2) * np.sqrt(u + v))
    return Interval(difference, difference - half, difference + half)


def sign_flip_test(differences: Sequence[float], *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p value that paired differences are symmetric about zero, by flipping their signs.

    Exact for up to EXACT differences, where the least p value is 2 ** (1 - n); past that from `draws` random patterns,
    the given one counted with them.

    Args:
        differences: finite numbers, at least one.
        draws: random sign patterns.
        seed: of the generator.

    Raises:
        InputError: if there is no difference, or one is not finite.

    Source: Fisher, "The design of experiments" (1935), section 21.
    """
    data = _finite(differences)
    observed = abs(data.sum()) * (1 - 1e-12)  # a pattern of equal size counts, however its sum was rounded
    if len(data) <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(data))))
        return float((np.abs(signs @ data) >= observed).mean())
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // len(data))
    extreme = 0
    for start in range(0, draws, step):
        signs = generator.integers(0, 2, (min(step, draws - start), len(data))) * 2.0 - 1
        extreme += int((np.abs(signs @ data) >= observed).sum())
    return (1 + extreme) / (1 + draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given; the chance of any false alarm stays below the level.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def robust_column(results: Results, rank_by: str = "accuracy") -> str:
    """The table's most honest column: the worst case over attacks, or the white-box accuracy where that is missing.

    Args:
        results: a run.
        rank_by: `accuracy`, or `balanced` for the mean over classes.

    Raises:
        InputError: if `rank_by` is something else, or `balanced` of a run without a defence.
    """
    one_of("rank_by", rank_by, RANK_BY)
    final = results.final
    column = final.worst if results.table[final.worst].count() else final.white_box
    if rank_by == "accuracy":
        return column
    if column not in BALANCED:
        raise InputError("rank_by (=balanced): expected a run with a defence; take accuracy")
    return BALANCED[column]


def ranking(results: Results, column: str | None = None, *, rank_by: str = "accuracy") -> pl.DataFrame:
    """Candidates from best to worst, with ties where their intervals overlap.

    A figure is the mean over seeds. A member that is dead or diverged counts 0: it left no network that tells classes
    apart, and the accuracy of a dead one is only the share of a class. The interval is the wider of two at either end:
    the bootstrap over seeds, and Wilson's over test images. `rank_low` is one more than the candidates whose whole
    interval lies above; `rank_high` leaves out those whose whole interval lies below.

    Args:
        results: a run.
        column: an accuracy of the table; None for `robust_column`.
        rank_by: of `robust_column`.

    Returns:
        Columns hidden_layers, depth, parameters, seeds, trained, clear (seeds whose defended network is clearly more
        accurate on clean test images than always answering their most frequent class), mean, low, high, rank_low,
        rank_high, sorted by mean, then fewest parameters. Candidates without a clear seed come after all others: an
        answer that does not depend on the image survives every attack. Those of which no seed trained come last.

    Raises:
        InputError: as `robust_column`.
    """
    column = column or robust_column(results, rank_by)
    images = independent_images(results, column)
    figure = pl.when(pl.col("status") == "trained").then(pl.col(column)).fill_null(0.0)
    clean_images = independent_images(results, results.final.clean)
    rows = []
    for (name, depth, parameters), part in results.table.group_by(
        "hidden_layers", "depth", "parameters", maintain_order=True
    ):
        values = part.select(figure.alias("figure"))["figure"].to_list()
        interval = _with_images(bootstrap_mean(values), images)
        trained = int((part["status"] == "trained").sum())
        clear = sum(_is_clear(row, results.final.clean, clean_images) for row in part.iter_rows(named=True))
        rows.append((name, depth, parameters, len(values), trained, clear, *interval))
    frame = pl.DataFrame(rows, schema=_RANKING, orient="row")
    lows, highs = frame["low"].to_numpy(), frame["high"].to_numpy()
    above = [int((lows > high).sum()) for high in highs]
    below = [int((highs < low).sum()) for low in lows]
    frame = frame.with_columns(
        pl.Series("rank_low", [1 + count for count in above], pl.Int64),
        pl.Series("rank_high", [len(frame) - count for count in below], pl.Int64),
    )
    order = [pl.col("trained") > 0, pl.col("clear") > 0, pl.col("mean"), pl.col("parameters")]
    return frame.sort(order, descending=[True, True, True, False], maintain_order=True)


def _is_clear(row: Mapping[str, Any], clean: str, images: int) -> bool:
    """Whether the interval of a member's clean accuracy, in that column, lies above the majority share."""
    accuracy, share = row[clean], row["majority_share"]
    if row["status"] != "trained" or accuracy is None:
        return False
    if share is None or not images:
        return True  # nothing says what there is to be above
    low, _ = wilson(round(accuracy * images), images)
    return low is not None and low > share


_RANKING = {
    "hidden_layers": pl.String,
    "depth": pl.Int64,
    "parameters": pl.Int64,
    "seeds": pl.Int64,
    "trained": pl.Int64,
    "clear": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}


def pareto(results: Results, column: str | None = None, *, rank_by: str = "accuracy") -> pl.DataFrame:
    """The front of parameters against robust accuracy: those that trained and that no smaller or equal one matches.

    Where any candidate is clearly better than always answering the most frequent class, those that are not are left
    out.

    Args:
        results: a run.
        column: an accuracy of the table; None for `robust_column`.
        rank_by: of `robust_column`.

    Returns:
        The rows of `ranking` on the front, fewest parameters first.

    Raises:
        InputError: as `robust_column`.
    """
    best, keep = -1.0, []
    ranked = ranking(results, column, rank_by=rank_by)
    ranked = ranked.filter(pl.col("trained") > 0, (pl.col("clear") > 0) | ~(pl.col("clear") > 0).any())
    ranked = ranked.sort(["parameters", "mean"], descending=[False, True], maintain_order=True)
    for mean in ranked["mean"]:
        keep.append(mean > best)
        best = max(best, mean)
    return ranked.filter(pl.Series(keep, dtype=pl.Boolean))


def depth_means(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """A row a seed and depth: mean over the candidates of that depth that trained with every seed.

    The same candidates stand behind every seed, so that seeds can be paired.

    Args:
        table: a run's.
        column: an accuracy or recovery.

    Returns:
        Columns depth, seed, mean.
    """
    whole = (pl.col("status") == "trained") & pl.col(column).is_not_null()
    # Of a run that is not finished a candidate may lack a seed.
    every = pl.len().over("hidden_layers") == table["seed"].n_unique()
    kept = table.filter(whole.all().over("hidden_layers") & every)
    return kept.group_by("depth", "seed").agg(pl.col(column).mean().alias("mean")).sort("depth", "seed")


def compare_depths(results: Results, column: str | None = None) -> pl.DataFrame:
    """Every pair of depths, paired by seed.

    The question is which depth is better *for these candidates*: what varies is the seed, so seeds are what is
    resampled and flipped. With n seeds no p value is below 2 ** (1 - n); ten are needed for 28 pairs of depths.

    Args:
        results: a run of at least two seeds.
        column: an accuracy or recovery of the table; None for `robust_column`.

    Returns:
        Columns depth_a, depth_b, seeds, difference (b - a), low, high, p, p_holm; empty for one seed.
    """
    column = column or robust_column(results)
    means = {
        depth: dict(part.select("seed", "mean").iter_rows())
        for (depth,), part in depth_means(results.table, column).group_by("depth", maintain_order=True)
    }
    rows = []
    for a, b in itertools.combinations(means, 2):
        differences = [means[b][seed] - means[a][seed] for seed in means[a]]
        if len(differences) > 1:
            rows.append((a, b, len(differences), *bootstrap_mean(differences), sign_flip_test(differences)))
    frame = pl.DataFrame(rows, schema=_DEPTHS, orient="row")
    return frame.with_columns(pl.Series("p_holm", holm(frame["p"].to_list()), pl.Float64))


_DEPTHS = {
    "depth_a": pl.Int64,
    "depth_b": pl.Int64,
    "seeds": pl.Int64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
}


def _finite(values: Sequence[float]) -> np.ndarray:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data) or not np.isfinite(data).all():
        raise InputError(f"values (={values!r}): expected one or more finite numbers; leave out what is missing")
    return data


def independent_images(results: Results, column: str) -> int:
    """Test images by whose number the noise of a figure goes; 0 where nothing says so.

    A balanced accuracy of K classes of n_c images is as noisy as an accuracy over K^2 / sum(1 / n_c) images, at equal
    recalls: n where the classes are even, and fewer where a rare class counts as much as a frequent one.

    Args:
        results: a run.
        column: an accuracy of the table.
    """
    if column in BALANCED.values():
        sizes = [size for size in results.run.get("data", {}).get("test_class_counts", ()) if size]
        if sizes:
            return int(len(sizes) ** 2 / sum(1 / size for size in sizes))
    counts = results.metrics.filter(pl.col("split") == "test")["n"]
    return int(counts.max() or 0)  # type: ignore[arg-type]


def _with_images(interval: Interval, images: int) -> tuple[float, float, float]:
    """The interval, widened to Wilson's over so many test images."""
    mean, *ends = interval
    ends += wilson(round(mean * images), images)
    known = [end for end in ends if end is not None]
    return mean, min([mean, *known]), max([mean, *known])
