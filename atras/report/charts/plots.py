"""Charts as values, and as SVG that needs nothing but itself: no script, no font, no style from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import NamedTuple

from markupsafe import Markup

from .markers import marker
from .scales import Axis, interval, number
from .style import STANDALONE_CSS, STYLES

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 152, 14, 48
LINE, CHARACTER = 14, 6.4
"""Height of a line of a label, and the width that a character takes."""


class Table(NamedTuple):
    """A table of texts.

    Args:
        title: its heading.
        columns: names of the columns.
        rows: cells of each row; what follows a line break in one stands below it, smaller.
        sortable: with buttons to sort and fields to filter it on the page.
        head: index of the column that names each row.
        falling: column by which the rows are sorted already, from the highest figure; empty for another order.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sortable: bool = False
    head: int = 0
    falling: str = ""


class Point(NamedTuple):
    """A mark of a chart.

    Args:
        x, y: its place.
        y_low, y_high, x_low, x_high: interval on either axis; None without one.
        name: the candidate or whatever else it stands for.
        radius: of its marker.
    """

    x: float
    y: float
    y_low: float | None = None
    y_high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    name: str = ""
    radius: float = 4.5


@dataclass(frozen=True)
class Series:
    """Points under one legend entry.

    Args:
        label: its entry.
        style: number of its colour and shape; any whole number.
        points: its marks.
        line: join the points.
        dashed: how the line is drawn.
    """

    label: str
    style: int
    points: tuple[Point, ...]
    line: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart of points and lines.

    Args:
        name: short; names its file.
        title: what is shown.
        summary: what a reader should see in it, for those who do not see it.
        x, y: scales.
        series: what is drawn, first at the bottom.
        y_zero: draw a line at y = 0.
    """

    name: str
    title: str
    summary: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    y_zero: bool = False

    @property
    def table(self) -> Table:
        """The data of the chart, a row for each mark."""
        named = any(point.name for series in self.series for point in series.points)
        columns = ("series", *(("candidate",) if named else ()), self.x.label, self.y.label, "95 % interval")
        rows = [
            (
                series.label,
                *((point.name,) if named else ()),
                self.x.text(point.x),
                number(point.y),
                interval(point.y_low, point.y_high),
            )
            for series in self.series
            for point in series.points
        ]
        return Table("Data", columns, tuple(rows))

    def svg(self, *, standalone: bool = False) -> Markup:
        """The chart as an `svg` element.

        Args:
            standalone: with its style and title in it, as a file of its own.

        Returns:
            The markup.
        """
        right = WIDTH - (RIGHT if len(self.series) > 1 else 16)
        labels = _tick_labels(self.x, right)
        height = HEIGHT + LINE * (max(map(len, labels), default=1) - 1)
        body = [*_y_axis(self, right), *_x_axis(self, right, labels, height)]
        body += [_series(series, self, right) for series in self.series]
        if len(self.series) > 1:
            body.append(_legend(self.series, right + 14))
        return element(self.title, self.summary, (WIDTH, height), body, standalone=standalone)

    def _repr_svg_(self) -> str:
        return self.svg(standalone=True)


def element(
    title: str,
    summary: str,
    size: tuple[int, int],
    body: Iterable[Markup],
    *,
    attributes: str = "",
    standalone: bool,
) -> Markup:
    """An `svg` element.

    Args:
        title, summary: of what it shows; together its text alternative.
        size: width and height.
        body: what is in it.
        attributes: more attributes of the element, as markup.
        standalone: with style, title and paper in it, as a file of its own.

    Returns:
        The markup.
    """
    inside, (width, height) = Markup("").join(body), size
    label = f"{title}. {summary}"
    box = Markup('viewBox="0 {} {} {}" width="{}" height="{}" role="img" aria-label="{}"')
    if not standalone:
        opening = Markup('<svg class="chart" tabindex="0" {}{}>').format(
            box.format(0, width, height, width, height, label), attributes
        )
        return Markup("{}{}</svg>").format(opening, inside)
    # A chart in a file has its title in it; on the page it stands above.
    height += 30
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" {}><style>{}</style>'
        '<rect class="paper" y="-30" width="{}" height="{}"/>'
        '<text class="title" x="10" y="-10">{}</text>{}</svg>'
    ).format(box.format(-30, width, height, width, height, label), STANDALONE_CSS, width, height, title, inside)


def _tick_labels(axis: Axis, right: int) -> list[list[str]]:
    """Lines of the label below each tick; a name that is wider than its share of the axis takes several."""
    if not axis.names:
        return [[text] for _, text in axis.ticks]
    room = max(4, int((right - LEFT) / len(axis.names) / CHARACTER) - 1)
    return [_wrapped(text, room) for _, text in axis.ticks]


def _wrapped(text: str, room: int) -> list[str]:
    """Lines of at most that many characters, three at most; a longer word breaks after its parentheses."""
    if max(map(len, text.split()), default=0) > room:
        text = text.replace("(", "( ")
    lines = wrap(text, room, break_on_hyphens=False, max_lines=3, placeholder="…")
    return [line.replace("( ", "(") for line in lines] or [""]


def _y_axis(chart: Chart, right: int) -> list[Markup]:
    parts = []
    for value, text in chart.y.ticks:
        y = _y(chart, value)
        css = "zero" if chart.y_zero and value == 0 else "grid"
        parts.append(Markup('<path class="{}" d="M{} {:.1f}H{}"/>').format(css, LEFT, y, right))
        parts.append(Markup('<text class="end" x="{}" y="{:.1f}">{}</text>').format(LEFT - 8, y + 4, text))
    return parts


def _x_axis(chart: Chart, right: int, labels: Sequence[Sequence[str]], height: int) -> list[Markup]:
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    parts = []
    for (value, _), lines in zip(chart.x.ticks, labels, strict=True):
        x = _x(chart, value, right)
        parts.append(Markup('<path class="tick" d="M{:.1f} {}v5"/>').format(x, bottom))
        for index, line in enumerate(lines):
            y = bottom + 18 + LINE * index
            parts.append(Markup('<text class="mid" x="{:.1f}" y="{}">{}</text>').format(x, y, line))
    parts.append(Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(LEFT, TOP, bottom, right))
    label = Markup('<text class="mid label" x="{:.1f}" y="{}">{}</text>')
    parts.append(label.format((LEFT + right) / 2, height - 8, chart.x.label))
    turned = Markup('<text class="mid label" transform="translate(14 {:.1f})rotate(-90)">{}</text>')
    return [*parts, turned.format(middle, chart.y.label)]


def _x(chart: Chart, value: float, right: int) -> float:
    return LEFT + chart.x.share(value) * (right - LEFT)


def _y(chart: Chart, value: float) -> float:
    return HEIGHT - BOTTOM - chart.y.share(value) * (HEIGHT - BOTTOM - TOP)


def _series(series: Series, chart: Chart, right: int) -> Markup:
    style = series.style % STYLES
    places = [(_x(chart, point.x, right), _y(chart, point.y)) for point in series.points]
    parts = []
    if series.line:
        path = "".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(places))
        dashes = " dash" if series.dashed else ""
        parts.append(Markup('<path class="l c{}{}" d="{}"/>').format(style, dashes, path))
    for point, (x, y) in zip(series.points, places, strict=True):
        bars = _bars(point, chart, right, x, y, style)
        title = _tip(series, point, chart)
        shape = marker(style, x, y, 2.6 if series.line else point.radius)
        parts.append(Markup('<g class="m"><title>{}</title>{}{}</g>').format(title, bars, shape))
    return Markup("").join(parts)


def _tip(series: Series, point: Point, chart: Chart) -> str:
    parts = [
        point.name or series.label,
        f"{chart.x.label} {chart.x.text(point.x)}",
        f"{chart.y.label} {number(point.y)}",
    ]
    if point.name and series.label != point.name:
        parts.insert(1, series.label)
    if point.y_low is not None:
        parts[-1] += f" ({interval(point.y_low, point.y_high)})"
    return ", ".join(parts)


def _bars(point: Point, chart: Chart, right: int, x: float, y: float, style: int) -> Markup:
    path = ""
    if point.y_low is not None and point.y_high is not None:
        path += f"M{x:.1f} {_y(chart, point.y_low):.1f}V{_y(chart, point.y_high):.1f}"
    if point.x_low is not None and point.x_high is not None:
        path += f"M{_x(chart, point.x_low, right):.1f} {y:.1f}H{_x(chart, point.x_high, right):.1f}"
    return Markup('<path class="b c{}" d="{}"/>').format(style, path) if path else Markup("")


def _legend(series: Sequence[Series], left: int) -> Markup:
    parts = []
    for index, entry in enumerate(series):
        y, style = TOP + 10 + 20 * index, entry.style % STYLES
        if entry.line:
            dashes = " dash" if entry.dashed else ""
            parts.append(Markup('<path class="l c{}{}" d="M{} {}h20"/>').format(style, dashes, left, y))
        parts.append(marker(style, left + 10, y, 4))
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(left + 26, y + 4, clip(entry.label, 19)))
    return Markup("").join(parts)


def clip(text: str, length: int) -> str:
    """A text of at most that many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"
