"""Figures by depth: their means, and the charts and lines that show them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from atras.analysis import depth_intervals
from atras.report.charts import Chart, Estimate, Point, Series, categories, linear, rounded
from atras.results import Results
from atras.rounding import counted

from .population import Entry


def depth_label(depth: int) -> str:
    """The name of a depth in a legend.

    Args:
        depth: number of hidden layers.

    Returns:
        Such as `2 layers`.
    """
    return counted(depth, "layer")


def depth_means(
    frame: pl.DataFrame, value: str, n: int | None = None, results: Results | None = None
) -> dict[int, Estimate]:
    """Mean of a column with its interval, for each depth that has figures.

    Args:
        frame: has columns depth, hidden_layers and seed.
        value: name of the column.
        n: test images behind it.
        results: the run of whose table the frame has rows; None for one of the paper's.

    Returns:
        The estimates by depth.
    """
    return {depth: Estimate(*ends) for depth, ends in depth_intervals(frame, value, n, results).items()}


def by_depth(rows: tuple[Entry, ...], make: Callable[[Entry], Point | None], **options: Any) -> tuple[Series, ...]:
    """A series of points for each depth.

    Args:
        rows: candidates; those that did not train are left out.
        make: the point of a candidate, or None to leave it out.
        options: of each `Series`.

    Returns:
        The series in ascending order of depth.
    """
    series = []
    for depth in sorted({row.depth for row in rows}):
        points = [make(row) for row in rows if row.depth == depth and row.trained]
        kept = tuple(point for point in points if point is not None)
        if kept:
            series.append(Series(depth_label(depth), depth - 1, kept, **options))
    return tuple(series)


def lines_by_depth(means: pl.DataFrame, x: str, *y: str) -> tuple[Series, ...]:
    """A line for each depth.

    Args:
        means: a row for each point, with a column depth, sorted as they are to be joined.
        x, y: columns of the points: their place, and where there are intervals the lower and the upper end.

    Returns:
        The lines in the order of the frame.
    """
    return tuple(
        Series(
            depth_label(int(str(depth))),
            int(str(depth)) - 1,
            tuple(Point(*p) for p in part.select(x, *y).iter_rows()),
            line=True,
        )
        for (depth,), part in means.group_by("depth", maintain_order=True)
    )


def depth_chart(
    name: str, title: str, label: str, estimates: dict[str, dict[int, Estimate]], most: float | None = None
) -> Chart:
    """Means with intervals by depth, one series beside the other.

    Args:
        name, title: of the chart.
        label: of its vertical axis.
        estimates: by depth, for each entry of the legend.
        most: upper end of the vertical axis, whose lower end is then 0.

    Returns:
        The chart.
    """
    depths = sorted({depth for means in estimates.values() for depth in means})
    series = []
    for index, (entry, means) in enumerate(estimates.items()):
        shift = min(0.16, 0.8 / len(estimates)) * (index - (len(estimates) - 1) / 2)
        points = tuple(
            Point(depths.index(depth) + shift, mean, low, high)
            for depth, (mean, low, high) in sorted(means.items())
            if mean is not None
        )
        series.append(Series(entry, index, points))
    ends = [end for means in estimates.values() for estimate in means.values() for end in estimate]
    x = categories("hidden layers", [str(depth) for depth in depths])
    y = linear(label, [*ends, 0.0] if most is None else ends, None if most is None else 0, most)
    return Chart(name, title, depth_conclusion(estimates), x, y, tuple(series), y_zero=True)


def depth_conclusion(estimates: dict[str, dict[int, Estimate]]) -> str:
    """Where the first entry is highest and lowest, and whether the intervals of those two lie apart.

    Args:
        estimates: by depth, for each entry of a legend.

    Returns:
        A sentence.
    """
    entry, means = next(iter(estimates.items()))
    known = sorted((estimate.mean, depth) for depth, estimate in means.items() if estimate.mean is not None)
    if not known:
        return f"{entry}: no figure."
    (least, low), (most, high) = known[0], known[-1]
    if low == high:
        return f"{entry}: {rounded(most)} with {depth_label(high)}."
    ends = means[high].low, means[low].high
    apart = None not in ends and ends[0] > ends[1]  # type: ignore[operator]
    told = "their intervals lie apart" if apart else "their intervals overlap or are missing"
    highest, lowest = f"{depth_label(high)}, {rounded(most)}", f"{depth_label(low)}, {rounded(least)}"
    return f"{entry}: highest with {highest}, lowest with {lowest}; {told}."
