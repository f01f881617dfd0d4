"""Depths against one another: the same candidates and seeds, and what of it could be chance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import polars as pl

from atras.results import Results

from .many import max_t
from .means import Interval, Mean, sample_mean
from .members import Term, column_terms, members_interval, negative, with_images
from .outcomes import MEMBER
from .ranking import independent_images, robust_column


def whole_members(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """The members of candidates that trained with every seed: the same stand behind each, so that seeds can be paired.

    Args:
        table: a run's.
        column: an accuracy or recovery.

    Returns:
        Columns depth, hidden_layers, seed, value.
    """
    whole = (pl.col("status") == "trained") & pl.col(column).is_not_null()
    # Of a run that is not finished a candidate may lack a seed.
    every = pl.len().over("hidden_layers") == table["seed"].n_unique()
    return table.filter(whole.all().over("hidden_layers") & every).select("depth", *MEMBER, value=column)


def depth_means(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """A row a seed and depth: mean over the candidates of that depth that trained with every seed.

    Args:
        table, column: as in `whole_members`.

    Returns:
        Columns depth, seed, mean.
    """
    kept = whole_members(table, column)
    return kept.group_by("depth", "seed").agg(pl.col("value").mean().alias("mean")).sort("depth", "seed")


def depth_intervals(
    frame: pl.DataFrame, column: str, images: int | None = None, results: Results | None = None
) -> dict[int, Interval]:
    """The mean of each depth's members with its interval, for these candidates, as `members_interval`.

    Args:
        frame: columns depth, hidden_layers, seed and `column`; rows with null in it are left out.
        column: an accuracy or recovery.
        images: test images behind it.
        results: the run of whose table these are rows; None for one of the paper's, which tells nothing of images.
    """
    groups = frame.drop_nulls(column).group_by("depth", maintain_order=True)
    return {
        int(str(depth)): members_interval(
            rows, column, [] if results is None else column_terms(results, column, rows), images
        )
        for (depth,), rows in groups
    }


def differences_of_depths(table: pl.DataFrame, column: str) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Of every two depths, the difference with each seed.

    Args:
        table, column: as in `depth_means`.

    Returns:
        The pairs of depths, and the second's mean less the first's, [S, K].
    """
    wide = depth_means(table, column).pivot("depth", index="seed", values="mean", sort_columns=False)
    depths = [int(name) for name in wide.columns[1:]]
    pairs = list(itertools.combinations(depths, 2))
    values = wide.drop("seed").to_numpy()
    places = {depth: index for index, depth in enumerate(depths)}
    first, second = ([places[pair[side]] for pair in pairs] for side in (0, 1))
    return pairs, values[:, second] - values[:, first]


def compare_depths(results: Results, column: str | None = None) -> pl.DataFrame:
    """Every pair of depths, paired by seed, on these test images.

    The question is which depth is better *for these candidates*. Intervals are of seeds and images; p values are of
    the seeds alone, on these images: of flipped signs, a sign a seed for all pairs at once (`max_t`), and never below
    2 ** (1 - seeds), corrected or not: six seeds can tell any number of depths apart at 5 %, five none.

    Args:
        results: a run of at least two seeds.
        column: an accuracy or recovery of the table; None for `robust_column`.

    Returns:
        Columns depth_a, depth_b, seeds, difference (b - a), low, high, p and p_corrected; empty for one seed.
    """
    column = column or robust_column(results)
    pairs, values = differences_of_depths(results.table, column)
    if len(values) < 2:
        return pl.DataFrame(schema=_DEPTHS)
    kept = whole_members(results.table, column)
    images = independent_images(results, column)
    terms = {depth: column_terms(results, column, kept.filter(depth=depth)) for depth in kept["depth"].unique()}
    rows = [
        (
            *pair,
            len(values),
            *with_images(
                sample_mean(values[:, index].tolist()), [*terms[pair[1]], *negative(terms[pair[0]])], images
            ).interval(),
            p,
            corrected,
        )
        for index, (pair, p, corrected) in enumerate(zip(pairs, *max_t(values), strict=True))
    ]
    return pl.DataFrame(rows, schema=_DEPTHS, orient="row")


_DEPTHS = {
    "depth_a": pl.Int64,
    "depth_b": pl.Int64,
    "seeds": pl.Int64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "p_corrected": pl.Float64,
}


def leads(table: pl.DataFrame, column: str, depth: int = 1, *, results: Results | None = None) -> dict[int, Mean]:
    """A depth's lead over each of the others, as `group_difference`.

    Args:
        table, column: as in `whole_members`.
        depth: whose lead.
        results: the run of the table, for what its test images leave open; None for a table of the paper.

    Returns:
        By depth the difference; empty where one of the two sides has no candidate that trained with every seed.
    """
    kept = whole_members(table, column)
    own = kept.filter(depth=depth)
    others = sorted(set(kept["depth"]) - {depth}) if len(own) else []
    return {other: column_difference(results, column, own, kept.filter(depth=other)) for other in others}


def column_difference(results: Results | None, column: str, first: pl.DataFrame, second: pl.DataFrame) -> Mean:
    """`group_difference` of members by a column of the table, with what the run's test images leave open."""
    if results is None:
        return group_difference(first, second)
    terms = [*column_terms(results, column, first), *column_terms(results, column, second, sign=-1)]
    return group_difference(first, second, terms, independent_images(results, column))


def group_difference(
    first: pl.DataFrame, second: pl.DataFrame, terms: Sequence[Term] = (), images: int | None = None
) -> Mean:
    """The mean of a group of members less that of another, for these candidates: paired by seed, with Student's t, and
    of the test images; with one seed without certainty.

    Args:
        first, second: columns seed and value.
        terms, images: what the difference is a sum of, as in `images_part`.
    """
    means = [dict(group.group_by("seed").agg(pl.col("value").mean()).iter_rows()) for group in (first, second)]
    seeds = sorted(set(means[0]) & set(means[1]))
    if seeds:
        mean = sample_mean([means[0][seed] - means[1][seed] for seed in seeds])
        return with_images(mean, terms, images) if mean.parts else mean
    return Mean(float(first["value"].to_numpy().mean() - second["value"].to_numpy().mean()))
