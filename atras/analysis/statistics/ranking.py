"""Candidates from best to worst: which of them the figures tell apart, the Pareto front, what a winner is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from atras.checks import one_of
from atras.errors import InputError
from atras.evaluation import BALANCED
from atras.results import Results, wilson

from .members import Term, members_interval
from .outcomes import MEMBER, Kept, Member, kept_images, kept_of_column
from .pairs import told_apart

RANK_BY = ("accuracy", "balanced")
"""What candidates may be ranked by: the robust accuracy, or its mean over classes."""


def robust_column(results: Results, rank_by: str = "accuracy") -> str:
    """The table's most honest column: the worst case over attacks, or the white-box accuracy where that is missing.

    Args:
        results: a run.
        rank_by: `accuracy`, or `balanced` for the mean over classes.

    Raises:
        InputError: if `rank_by` is something else, or `balanced` of a run or variant without a defence.
    """
    one_of("rank_by", rank_by, RANK_BY)
    final = results.final
    column = final.worst if results.table[final.worst].count() else final.white_box
    if rank_by == "accuracy":
        return column
    if column not in BALANCED:
        raise InputError("rank_by (=balanced): expected a run with a defence; take accuracy")
    if "none" in results.table.filter(pl.col(BALANCED[column]).is_null())["defence"]:
        raise InputError("rank_by (=balanced): expected a defence in every variant of the run; take accuracy")
    return BALANCED[column]


def require_alike(results: Results, column: str, what: str) -> Results:
    """The flattened run, where all its figures of a column may be compared.

    Raises:
        InputError: if they were measured at several strengths of attack; it names these.
    """
    parts = results.measured_alike(column)
    if len(parts) > 1:
        raise InputError(
            f"{what}: expected figures at one strength of attack, got {', '.join(parts)}, which are not compared; take "
            "one of results.measured_alike(column)"
        )
    return parts[""]


def ranking(results: Results, column: str | None = None, *, rank_by: str = "accuracy") -> pl.DataFrame:
    """Candidates from best to worst, with the ranks that each may have.

    Of a run with axes each candidate in a variant is a candidate of its own, such as `24-192 learning_rate=0.003`.

    A figure is the mean over seeds. A member that is dead or diverged counts 0: it left no network that tells classes
    apart, and the accuracy of a dead one is only the share of a class. Intervals are of seeds and test images
    (`members_interval`); with one seed of the images alone.

    Figures at different strengths of attack (axis `epsilon`) are not compared: each has a ranking of its own, one after
    the other.

    From two seeds all pairs are compared (`told_apart`): `rank_low` is one more than the candidates that are better,
    `rank_high` leaves out those that are worse, and with 95 % all these ranges hold together. One seed gives no ranks:
    how much seeds vary is not known, and two of one architecture differ as two architectures do.

    Args:
        results: a run.
        column: an accuracy of the table; None for `robust_column`.
        rank_by: of `robust_column`.

    Returns:
        The columns of `ordered`, rank_low, rank_high (null from one seed), and tied: the candidates that are not told
        apart from this one (null likewise).

    Raises:
        InputError: as `robust_column`.

    Source: Mogstad, Romano, Shaikh and Wilhelm (2024), as in `told_apart`.
    """
    results = results.flattened
    column = column or robust_column(results, rank_by)
    return pl.concat([_ranking(part, column, at) for at, part in results.measured_alike(column).items()])


def _ranking(results: Results, column: str, at: str) -> pl.DataFrame:
    """The ranking of a run whose figures were measured alike, at what is told of it."""
    frame = _ordered(results, column, at)
    compared = eligible(frame)
    names, count = frame["hidden_layers"].to_list(), int(compared.sum())
    better = _better(results, column, names[:count])
    if better is None:
        nothing = [None] * len(frame)
        ranks: list[Any] = [nothing, nothing, nothing]
    else:
        behind = len(frame) - count  # they come after all that are compared, in no order of their own
        lows = [1 + int(beaten) for beaten in better.sum(0)] + [count + 1] * behind
        highs = [len(frame) - behind - int(beats) for beats in better.sum(1)] + [len(frame)] * behind
        same = ~(better | better.T) & ~np.eye(count, dtype=bool)
        tied = [[names[other] for other in np.flatnonzero(row)] for row in same]
        ranks = [lows, highs, tied + [[name for name in names[count:] if name != own] for own in names[count:]]]
    types: tuple[Any, ...] = (pl.Int64, pl.Int64, pl.List(pl.String))
    return frame.with_columns(
        pl.Series(name, values, dtype)
        for name, values, dtype in zip(("rank_low", "rank_high", "tied"), ranks, types, strict=True)
    )


def ordered(results: Results, column: str | None = None, *, rank_by: str = "accuracy") -> pl.DataFrame:
    """Candidates from best to worst as they stand, without saying which of them the figures tell apart.

    Args:
        results, column, rank_by: as in `ranking`.

    Returns:
        Columns hidden_layers, depth, parameters, seeds, trained, clear (seeds whose defended network is clearly more
        accurate on clean test images than always answering their most frequent class), mean, low, high, sorted by mean,
        then fewest parameters. Candidates without a clear seed come after all others: an answer that does not depend on
        the image survives every attack. Those of which no seed trained come last. And measured_at: the strength of
        attack, such as `epsilon=0.1`, where the run has several; each has an order of its own, one after the other.

    Raises:
        InputError: as `robust_column`.
    """
    results = results.flattened
    column = column or robust_column(results, rank_by)
    return pl.concat([_ordered(part, column, at) for at, part in results.measured_alike(column).items()])


def _ordered(results: Results, column: str, at: str) -> pl.DataFrame:
    """The candidates of a run whose figures were measured alike, at what is told of it, in order."""
    images, clean_images = independent_images(results, column), independent_images(results, results.final.clean)
    table = results.table.with_columns(figure=_figure(column))
    kept = kept_of_column(results, column)
    rows = []
    for (name, depth, parameters), part in table.group_by("hidden_layers", "depth", "parameters", maintain_order=True):
        share = float(str(part["figure"].mean()))
        interval = members_interval(part, "figure", [Term(1, share, _counted(kept, part))], images)
        trained = int((part["status"] == "trained").sum())
        clear = sum(_is_clear(row, results.final.clean, clean_images) for row in part.iter_rows(named=True))
        rows.append((name, depth, parameters, len(part), trained, clear, *interval, at))
    frame = pl.DataFrame(rows, schema=_RANKING, orient="row")
    order = [pl.col("trained") > 0, pl.col("clear") > 0, pl.col("mean"), pl.col("parameters")]
    return frame.sort(order, descending=[True, True, True, False], maintain_order=True)


def _counted(kept: Mapping[Member, Kept] | None, members: pl.DataFrame) -> dict[Member, Kept] | None:
    """What a candidate's members keep, image by image; one that did not train counts 0."""
    if kept is None:
        return None
    trained = members.select(*MEMBER, pl.col("status") == "trained").rows()
    own = {(name, seed): (kept[name, seed], good) for name, seed, good in trained if (name, seed) in kept}
    return {member: one._replace(correct=one.correct & good) for member, (one, good) in own.items()}


def _figure(column: str) -> pl.Expr:
    return pl.when(pl.col("status") == "trained").then(pl.col(column)).fill_null(0.0)


def eligible(ranked: pl.DataFrame) -> pl.Series:
    """Which candidates may win: trained, and where any sees the images, those that do; the first rows.

    Args:
        ranked: of `ordered` or `ranking`, at one strength of attack.
    """
    sees = (pl.col("clear") > 0) | ~(pl.col("clear") > 0).any()
    return ranked.select((pl.col("trained") > 0) & sees).to_series()


def figures(results: Results, column: str, names: list[str]) -> tuple[np.ndarray, list[int]]:
    """Accuracies of candidates by seed, 0 where a member did not train, [K, S], and the seeds that all of them have."""
    table = results.table.filter(pl.col("hidden_layers").is_in(names))
    counts = table.group_by("seed", maintain_order=True).len()
    seeds = counts.filter(pl.col("len") == len(names))["seed"].to_list()
    values = {(n, s): v for n, s, v in table.select("hidden_layers", "seed", _figure(column).alias("figure")).rows()}
    return np.array([[values[name, seed] for seed in seeds] for name in names]).reshape(len(names), -1), seeds


def _better(results: Results, column: str, names: list[str]) -> np.ndarray | None:
    """Which candidate is better than which, [K, K]; None where fewer than two seeds tell."""
    if not names:
        return None
    values, seeds = figures(results, column, names)
    if len(seeds) < 2:
        return None
    if len(names) == 1:
        return np.zeros((1, 1), dtype=bool)
    failed = results.table.filter(pl.col("status") != "trained")["hidden_layers"].unique().to_list()
    whole = np.array([name not in failed for name in names])
    right = kept_images(results, column, names, seeds)
    return told_apart(values, independent_images(results, column), right, whole=whole)


class Elsewhere(NamedTuple):
    """What a choice is worth where it was not made.

    Args:
        accuracy: of what is chosen.
        images: whether it is measured on other images too, and not on other seeds alone.
    """

    accuracy: float
    images: bool


def chosen_elsewhere(results: Results, *, rank_by: str = "accuracy") -> Elsewhere | None:
    """Accuracy of a winner that was chosen on other seeds and other images than those it is measured on.

    The first of many is first also by luck, so that its own figure says too much. Here each seed, and where outcomes
    are kept each half of the images, measures what is first on all others: the mean is what the choice is worth.

    Args:
        results: a run.
        rank_by: of `robust_column`.

    Returns:
        The accuracy, and whether images were halved; None from one seed, which leaves nothing to choose by, or for
        fewer than two candidates.

    Raises:
        InputError: as `robust_column`, or if the run has figures at several strengths of attack.

    Source: Stone, "Cross-validatory choice and assessment of statistical predictions" (1974).
    """
    results = results.flattened
    column = robust_column(results, rank_by)
    results = require_alike(results, column, "chosen_elsewhere")
    frame = ordered(results, column)
    names = frame.filter(eligible(frame)).sort("parameters", maintain_order=True)["hidden_layers"].to_list()
    if len(names) < 2:
        return None
    values, seeds = figures(results, column, names)
    if len(seeds) < 2:
        return None
    right = kept_images(results, column, names, seeds)
    # Without outcomes all images count on both sides.
    parts = [(values, values)] if right is None else [
        (right[..., side::2].mean(-1), right[..., 1 - side :: 2].mean(-1)) for side in (0, 1)
    ]  # fmt: skip
    found = []
    for measured, choosing in parts:
        for seed in range(len(seeds)):
            others = np.delete(choosing, seed, axis=1).mean(1)
            found.append(float(measured[int(others.argmax()), seed]))
    return Elsewhere(float(np.mean(found)), right is not None)


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
    "measured_at": pl.String,
}


def pareto(results: Results, column: str | None = None, *, rank_by: str = "accuracy") -> pl.DataFrame:
    """The front of parameters against robust accuracy: those that trained and that no smaller or equal one matches.

    Where any candidate is clearly better than always answering the most frequent class, those that are not are left
    out. The front goes by the means; `tied` tells which others, on it or off it, each is not told apart from.

    Args:
        results: a run.
        column: an accuracy of the table; None for `robust_column`.
        rank_by: of `robust_column`.

    Returns:
        The rows of `ranking` on the front, fewest parameters first; of figures at several strengths of attack the
        front of each, one after the other.

    Raises:
        InputError: as `robust_column`.
    """
    ranked = ranking(results, column, rank_by=rank_by)
    return pl.concat(map(_front, ranked.partition_by("measured_at", maintain_order=True) or [ranked]))


def _front(ranked: pl.DataFrame) -> pl.DataFrame:
    """The rows on the front, of a ranking at one strength of attack."""
    best, keep = -1.0, []
    ranked = ranked.filter(eligible(ranked)).sort(["parameters", "mean"], descending=[False, True], maintain_order=True)
    for mean in ranked["mean"]:
        keep.append(mean > best)
        best = max(best, mean)
    return ranked.filter(pl.Series(keep, dtype=pl.Boolean))


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
