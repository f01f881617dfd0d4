"""The figures of a run as the report shows them: a row a candidate, a row a depth, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from atras.report.charts.intervals import Estimate, bootstrap_mean, estimate
from atras.report.charts.plots import Point, Series
from atras.results.results import Results

WHITE_BOX = "attacked_accuracy_after_white_box"
STATIC = "attacked_accuracy_after_static"
BEFORE = "attacked_accuracy_before_true"
CLEAN_BEFORE = "test_accuracy"
CLEAN_AFTER = "adversarial_test_accuracy"
WORST = "worst_case_accuracy_after"
RANK = ("trained", "dead", "diverged")


@dataclass(frozen=True)
class Entry:
    """A candidate: its figures over the seeds that trained, or over all where none did."""

    name: str
    depth: int
    parameters: int
    status: str
    trained: int
    seeds: int
    figures: dict[str, Estimate]


def entries(results: Results) -> list[Entry]:
    """Every candidate, in the order of the table."""
    n = images(results)
    return [_entry(rows, n) for _, rows in results.table.group_by("hidden_layers", maintain_order=True)]


def images(results: Results) -> int | None:
    """Test images that every accuracy of the table is measured on; None for a run that does not tell."""
    counts = results.metrics.filter(pl.col("split") == "test")["n"]
    return results.run.get("data", {}).get("test_size") or (int(str(counts.max())) if len(counts) else None)


def _entry(rows: pl.DataFrame, n: int | None) -> Entry:
    first = rows.row(0, named=True)
    statuses = rows["status"].to_list()
    good = rows.filter(pl.col("status") == "trained")
    columns = (WHITE_BOX, STATIC, BEFORE, CLEAN_BEFORE, CLEAN_AFTER, WORST, "recovery_white_box", "recovery_static")
    chosen = good if len(good) else rows
    return Entry(
        first["hidden_layers"],
        first["depth"],
        first["parameters"],
        max(statuses, key=RANK.index),
        len(good),
        len(rows),
        {name: estimate(chosen[name].to_list(), n if "accuracy" in name else None) for name in columns},
    )


def best(rows: list[Entry]) -> Entry | None:
    """The candidate with the highest white-box robust accuracy among those that trained."""
    known = [row for row in rows if row.trained and row.figures[WHITE_BOX].mean is not None]
    return max(known, key=lambda row: row.figures[WHITE_BOX].mean or 0.0, default=None)


def by_depth(rows: list[Entry], make: Callable[[Entry], Point | None], **options: Any) -> tuple[Series, ...]:
    """A series a depth with the candidates' points; those without a point are left out."""
    series = []
    for depth in depths(rows):
        points = [make(row) for row in rows if row.depth == depth and row.trained]
        kept = tuple(point for point in points if point is not None)
        if kept:
            series.append(Series(depth_label(depth), depth - 1, kept, **options))
    return tuple(series)


def depths(rows: list[Entry]) -> list[int]:
    """The depths there are, in ascending order."""
    return sorted({row.depth for row in rows})


def depth_label(depth: int) -> str:
    """How a legend names a depth."""
    return f"{depth} layer{'s' if depth > 1 else ''}"


def depth_means(frame: pl.DataFrame, value: str) -> dict[int, Estimate]:
    """Mean of a column with its bootstrap interval, for each depth that has figures."""
    groups = frame.drop_nulls(value).group_by("depth", maintain_order=True)
    return {int(str(depth)): bootstrap_mean(rows[value].to_list()) for (depth,), rows in groups}


def trained_members(results: Results) -> pl.DataFrame:
    """The members that trained: columns hidden_layers, seed, depth, parameters."""
    return results.table.filter(pl.col("status") == "trained").select("hidden_layers", "seed", "depth", "parameters")


def last_test_metrics(results: Results) -> pl.DataFrame:
    """Final test metrics of the members that trained, each with its depth; attacks at the true label where there are.

    Static figures are not among them.
    """
    frame = results.metrics.filter(
        (pl.col("split") == "test") & pl.col("epoch").is_null() & (pl.col("mode") != "static")
    )
    honest = frame.filter(pl.col("label_source") == "true")["attack"].unique().to_list()
    frame = frame.filter(~pl.col("attack").is_in(honest) | (pl.col("label_source") == "true"))
    return frame.join(trained_members(results), on=["hidden_layers", "seed"], how="inner", maintain_order="left")
