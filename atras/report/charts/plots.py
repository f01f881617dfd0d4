"""Charts as values, and as SVG that needs nothing but itself: no script, no font, no style from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from .labels import CHARACTER, LINE, legend_lines, tick_labels
from .markers import marker
from .scales import Axis, interval, number
from .style import STANDALONE_CSS, STYLES

WIDTH, HEIGHT = 720, 380
NARROW = 358
"""Width of a chart on a phone."""

LEFT, TOP, BOTTOM = 64, 14, 48
BESIDE = 24
"""Most characters of a legend's entries for it to stand at the right."""


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
        label: written beside it; empty for none.
    """

    x: float
    y: float
    y_low: float | None = None
    y_high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    name: str = ""
    radius: float = 4.5
    label: str = ""


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

    def svg(self, *, standalone: bool = False, narrow: bool = False) -> Markup:
        """The chart as an `svg` element.

        Args:
            standalone: with its style and title in it, as a file of its own.
            narrow: for a phone.

        Returns:
            The markup.
        """
        place = Place.of(self, narrow)
        body = [*_y_axis(self, place), *_x_axis(self, place)]
        body += [_series(series, self, place) for series in self.series]
        body += [*_point_labels(self, place), *_legend(self.series, place)]
        return element(self.title, self.summary, (place.width, place.height), body, standalone=standalone)

    def _repr_svg_(self) -> str:
        return self.svg(standalone=True)


class Place(NamedTuple):
    """Where the parts of a chart are.

    Args:
        width, height: of the whole.
        left, right, bottom: ends of the plot; its top is `TOP`.
        ticks: lines of the label below each tick.
        legend: left end and top of the legend.
    """

    width: int
    height: int
    left: int
    right: int
    bottom: int
    ticks: list[list[str]]
    legend: tuple[int, int]

    @classmethod
    def of(cls, chart: Chart, narrow: bool) -> Place:
        """The legend is at the right where it has room there, else below."""
        width, height, left = (NARROW, 300, 50) if narrow else (WIDTH, HEIGHT, LEFT)
        labels = [entry.label for entry in chart.series] if len(chart.series) > 1 else []
        longest = max(map(len, labels), default=0)
        beside = bool(labels) and not narrow and longest <= BESIDE
        right = width - (50 + int(1.1 * CHARACTER * longest) if beside else 16)
        ticks, bottom = tick_labels(chart.x, right - left), height - BOTTOM
        height += LINE * (max(map(len, ticks), default=1) - 1)
        if beside or not labels:
            return cls(width, max(height, TOP + 20 * len(labels)), left, right, bottom, ticks, (right + 14, TOP + 10))
        below = sum(6 + LINE * len(legend_lines(label, width)) for label in labels)
        return cls(width, height + below + 8, left, right, bottom, ticks, (8, height + 12))

    def x(self, chart: Chart, value: float) -> float:
        return self.left + chart.x.share(value) * (self.right - self.left)

    def y(self, chart: Chart, value: float) -> float:
        return self.bottom - chart.y.share(value) * (self.bottom - TOP)


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


def _y_axis(chart: Chart, place: Place) -> list[Markup]:
    parts = []
    for value, text in chart.y.ticks:
        y = place.y(chart, value)
        css = "zero" if chart.y_zero and value == 0 else "grid"
        parts.append(Markup('<path class="{}" d="M{} {:.1f}H{}"/>').format(css, place.left, y, place.right))
        parts.append(Markup('<text class="end" x="{}" y="{:.1f}">{}</text>').format(place.left - 8, y + 4, text))
    turned = Markup('<text class="mid label" transform="translate({} {:.1f})rotate(-90)">{}</text>')
    return [*parts, turned.format(14 if place.left > 50 else 10, (TOP + place.bottom) / 2, chart.y.label)]


def _x_axis(chart: Chart, place: Place) -> list[Markup]:
    parts, lowest = [], place.bottom + 18
    for (value, _), lines in zip(chart.x.ticks, place.ticks, strict=True):
        x = place.x(chart, value)
        parts.append(Markup('<path class="tick" d="M{:.1f} {}v5"/>').format(x, place.bottom))
        for index, line in enumerate(lines):
            y = place.bottom + 18 + LINE * index
            lowest = max(lowest, y)
            parts.append(Markup('<text class="mid" x="{:.1f}" y="{}">{}</text>').format(x, y, line))
    parts.append(Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(place.left, TOP, place.bottom, place.right))
    label = Markup('<text class="mid label" x="{:.1f}" y="{}">{}</text>')
    return [*parts, label.format((place.left + place.right) / 2, lowest + 22, chart.x.label)]


def _series(series: Series, chart: Chart, place: Place) -> Markup:
    style = series.style % STYLES
    places = [(place.x(chart, point.x), place.y(chart, point.y)) for point in series.points]
    parts = []
    if series.line:
        path = "".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(places))
        dashes = " dash" if series.dashed else ""
        parts.append(Markup('<path class="l c{}{}" d="{}"/>').format(style, dashes, path))
    for point, (x, y) in zip(series.points, places, strict=True):
        bars = _bars(point, chart, place, x, y, style)
        title = _tip(series, point, chart)
        shape = marker(style, x, y, 2.6 if series.line else point.radius)
        parts.append(Markup('<g class="m"><title>{}</title>{}{}</g>').format(title, bars, shape))
    return Markup("").join(parts)


def _point_labels(chart: Chart, place: Place) -> Iterable[Markup]:
    """The labels of points, above them or else below; one that would run into another is left to the tip."""
    taken: list[tuple[float, float, float]] = []
    for point in (point for series in chart.series for point in series.points if point.label):
        half = CHARACTER * len(point.label) / 2
        x = min(max(place.x(chart, point.x), place.left + half), place.right - half)
        for y in (place.y(chart, point.y) - 10, place.y(chart, point.y) + 19):
            free = all(abs(x - other) > half + room + 4 or abs(y - line) > LINE for other, line, room in taken)
            if free and TOP < y < place.bottom - 2:
                taken.append((x, y, half))
                yield Markup('<text class="mid tag" x="{:.1f}" y="{:.1f}">{}</text>').format(x, y, point.label)
                break


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


def _bars(point: Point, chart: Chart, place: Place, x: float, y: float, style: int) -> Markup:
    path = ""
    if point.y_low is not None and point.y_high is not None:
        path += f"M{x:.1f} {place.y(chart, point.y_low):.1f}V{place.y(chart, point.y_high):.1f}"
    if point.x_low is not None and point.x_high is not None:
        path += f"M{place.x(chart, point.x_low):.1f} {y:.1f}H{place.x(chart, point.x_high):.1f}"
    return Markup('<path class="b c{}" d="{}"/>').format(style, path) if path else Markup("")


def _legend(series: Sequence[Series], place: Place) -> Iterable[Markup]:
    if len(series) < 2:
        return
    left, y = place.legend
    below = left < place.left
    for entry in series:
        style = entry.style % STYLES
        if entry.line:
            dashes = " dash" if entry.dashed else ""
            yield Markup('<path class="l c{}{}" d="M{} {}h20"/>').format(style, dashes, left, y)
        yield marker(style, left + 10, y, 4)
        lines = legend_lines(entry.label, place.width) if below else [entry.label]
        for index, line in enumerate(lines):
            yield Markup('<text x="{}" y="{}">{}</text>').format(left + 26, y + 4 + LINE * index, line)
        y += 6 + LINE * len(lines)
