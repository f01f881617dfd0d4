"""Depths against one another: the same candidates and seeds, and what of it could be chance."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl

from atras.results import Results

from .many import max_t
from .means import Interval, Mean, group_mean, sample_mean
from .ranking import robust_column

MEMBER = ("hidden_layers", "seed")


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


def group_interval(rows: pl.DataFrame, column: str, images: int | None = None) -> Interval:
    """Mean of a column over members, for these candidates: over seeds and, of an accuracy, images; with one seed of
    these alone.

    Args:
        rows: columns hidden_layers, seed and `column`, without nulls in it; at least one.
        column: its name.
        images: test images where it is an accuracy; None for gains and other differences.
    """
    mean = group_mean(rows[column].to_list(), rows["hidden_layers"].to_list(), rows["seed"].to_list(), images)
    return mean.interval(low=0.0, high=1.0) if images else mean.interval()


def depth_intervals(frame: pl.DataFrame, column: str, images: int | None = None) -> dict[int, Interval]:
    """`group_interval` of each depth that has figures.

    Args:
        frame: columns depth, hidden_layers, seed and `column`.
        column, images: as there.
    """
    groups = frame.drop_nulls(column).group_by("depth", maintain_order=True)
    return {int(str(depth)): group_interval(rows, column, images) for (depth,), rows in groups}


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

    The question is which depth is better *for these candidates* on these images: what varies is the seed. Intervals are
    Student's; p values are of flipped signs, a sign a seed for all pairs at once (`max_t`), and never below
    2 ** (1 - seeds), corrected or not: six seeds can tell any number of depths apart at 5 %, five none.

    Args:
        results: a run of at least two seeds.
        column: an accuracy or recovery of the table; None for `robust_column`.

    Returns:
        Columns depth_a, depth_b, seeds, difference (b - a), low, high, p and p_corrected; empty for one seed.
    """
    pairs, values = differences_of_depths(results.table, column or robust_column(results))
    if len(values) < 2:
        return pl.DataFrame(schema=_DEPTHS)
    rows = [
        (*pair, len(values), *sample_mean(values[:, index].tolist()).interval(), p, corrected)
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


def leads(table: pl.DataFrame, column: str, depth: int = 1) -> dict[int, Mean]:
    """A depth's lead over each of the others, as `group_difference`.

    Args:
        table, column: as in `whole_members`.
        depth: whose lead.

    Returns:
        By depth the difference; empty where one of the two sides has no candidate that trained with every seed.
    """
    kept = whole_members(table, column)
    own = kept.filter(depth=depth)
    others = sorted(set(kept["depth"]) - {depth}) if len(own) else []
    return {other: group_difference(own, kept.filter(depth=other)) for other in others}


def group_difference(first: pl.DataFrame, second: pl.DataFrame) -> Mean:
    """The mean of a group of members less that of another, for these candidates: paired by seed, with Student's t; with
    one seed without certainty.

    Args:
        first, second: columns seed and value.
    """
    means = [dict(group.group_by("seed").agg(pl.col("value").mean()).iter_rows()) for group in (first, second)]
    seeds = sorted(set(means[0]) & set(means[1]))
    if seeds:
        return sample_mean([means[0][seed] - means[1][seed] for seed in seeds])
    return Mean(float(first["value"].to_numpy().mean() - second["value"].to_numpy().mean()))
