"""A part of the report as a value, and the charts that several parts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from atras.report.charts.heatmap import HeatMap
from atras.report.charts.pictures import Gallery
from atras.report.charts.plots import Chart, Point, Series, Table
from atras.report.charts.scales import categories, linear, number

from . import population as pop

Figure = Chart | HeatMap


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        key: names it in addresses and files.
        title: its heading.
        text: its paragraphs.
        figures, tables, galleries: what it shows, in this order.
        code: verbatim text with its heading, shown on demand.
    """

    key: str
    title: str
    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    code: tuple[tuple[str, str], ...] = ()


def depth_chart(
    name: str, title: str, label: str, found: dict[str, dict[int, Any]], most: float | None = None
) -> Chart:
    """Means with intervals by depth, a series beside the other."""
    depths = sorted({depth for means in found.values() for depth in means})
    series = []
    for index, (entry, means) in enumerate(found.items()):
        shift = 0.16 * (index - (len(found) - 1) / 2)
        points = tuple(
            Point(depths.index(depth) + shift, figure.mean, figure.low, figure.high)
            for depth, figure in sorted(means.items())
        )
        series.append(Series(entry, index, points))
    ends = [end for means in found.values() for figure in means.values() for end in figure]
    parts = [
        f"{entry}: " + ", ".join(f"{number(m[d].mean)} at depth {d}" for d in sorted(m)) for entry, m in found.items()
    ]
    x = categories("hidden layers", [str(depth) for depth in depths])
    y = linear(label, [*ends, 0.0] if most is None else ends, None if most is None else 0, most)
    return Chart(name, title, f"Means with 95 % intervals. {'; '.join(parts)}.", x, y, tuple(series), y_zero=True)


def lines(means: pl.DataFrame, x: str, y: str) -> tuple[Series, ...]:
    """A line a depth through the rows of (depth, x, y)."""
    return tuple(
        Series(
            pop.depth_label(int(str(depth))),
            int(str(depth)) - 1,
            tuple(Point(*p) for p in part.select(x, y).iter_rows()),
            line=True,
        )
        for (depth,), part in means.group_by("depth", maintain_order=True)
    )
