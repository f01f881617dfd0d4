"""Bars in rows, one below the other: shares that lie end to end, or marks side by side, for many named rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from .intervals import Estimate
from .markers import marker
from .plots import CHARACTER, WIDTH, Table, clip, element
from .scales import interval, number
from .style import STYLES

LONGEST = 28
"""Characters of a row's name that are drawn; the table has all."""

FEW = 12
"""Rows up to which they stand far apart, the marks of a row side by side and with intervals."""

HEAD, FOOT, FIGURE = 22, 44, 58
"""Height of a group's name, height of the scale, and width of the column of figures."""


class Bar(NamedTuple):
    """A row.

    Args:
        name: of the row.
        group: rows of one group follow each other below its name.
        parts: shares that lie end to end, in the order of the chart's `parts`.
        marks: a mark for each of the chart's `marks`; a mean of None where there is none.
    """

    name: str
    group: str
    parts: tuple[float, ...] = ()
    marks: tuple[Estimate, ...] = ()


@dataclass(frozen=True)
class Bars:
    """Rows of shares of one, or of marks between 0 and 1.

    Args:
        name, title, summary: as of a chart.
        value: name of the scale.
        rows: from top to bottom.
        parts: what the parts of each bar are, first at the left; the first is written beside the bar.
        marks: what the marks of each row are.
    """

    name: str
    title: str
    summary: str
    value: str
    rows: tuple[Bar, ...]
    parts: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    @property
    def table(self) -> Table:
        """The figures, a row for each row."""
        intervals = any(mark.low is not None for row in self.rows for mark in row.marks)
        columns = ("candidate", "depth", *self.parts)
        columns += tuple(text for mark in self.marks for text in ([mark, "95 % interval"] if intervals else [mark]))
        rows = []
        for row in self.rows:
            cells = [number(share) for share in row.parts]
            for mark in row.marks:
                cells += [number(mark.mean), *([interval(mark.low, mark.high)] if intervals else [])]
            rows.append((row.name, row.group, *cells))
        return Table("Data", columns, tuple(rows))

    def svg(self, *, standalone: bool = False) -> Markup:
        """The rows as an `svg` element.

        Args:
            standalone: with its style and title in it, as a file of its own.

        Returns:
            The markup.
        """
        labels = [*self.parts, *self.marks]
        places, below = _legend_places(labels)
        layout = _Layout.of(self, below)
        body = [*_legend(self, labels, places), *_scale(self, layout)]
        for row, y, head in layout.rows(self.rows):
            body += [_head(row.group, y)] if head else []
            body.append(_name(row, y, layout))
            body += [*_parts(self, row, y, layout), *_marks(self, row, y, layout)]
        return element(self.title, self.summary, (WIDTH, layout.bottom + FOOT), body, standalone=standalone)

    def _repr_svg_(self) -> str:
        return self.svg(standalone=True)


class _Layout(NamedTuple):
    """Where things are: left and right end of the scale, its top and bottom, and the height of a row."""

    left: float
    right: float
    top: int
    bottom: int
    step: int

    @classmethod
    def of(cls, chart: Bars, top: int) -> _Layout:
        step = max(22, 6 * len(chart.marks) + 6) if len(chart.rows) <= FEW else 16
        names = max([len(row.name) for row in chart.rows], default=0)
        groups = len({row.group for row in chart.rows})
        left = 20 + 1.05 * CHARACTER * min(names, LONGEST)
        bottom = top + step * len(chart.rows) + HEAD * groups
        return cls(max(left, 72.0), WIDTH - (FIGURE if chart.parts else 16), top, bottom, step)

    def x(self, share: float) -> float:
        return self.left + share * (self.right - self.left)

    def rows(self, rows: Sequence[Bar]) -> Iterator[tuple[Bar, int, bool]]:
        """Each row, its upper end, and whether it is the first of its group."""
        y, group = self.top, None
        for row in rows:
            head = row.group != group
            y += HEAD if head else 0
            yield row, y, head
            y, group = y + self.step, row.group


def _legend_places(labels: Sequence[str]) -> tuple[list[tuple[float, int]], int]:
    """Place of each entry of the legend, in as many lines as they take, and where what follows begins."""
    places, x, y = [], 8.0, 12
    for label in labels:
        width = 40 + CHARACTER * len(label)
        if x + width > WIDTH and x > 8:
            x, y = 8.0, y + 20
        places.append((x, y))
        x += width
    return places, y + 16


def _legend(chart: Bars, labels: Sequence[str], places: Sequence[tuple[float, int]]) -> Iterator[Markup]:
    for index, (label, (x, y)) in enumerate(zip(labels, places, strict=True)):
        if index < len(chart.parts):
            yield _box(index, x, y - 6, 14, 12)
        else:
            yield marker(index, x + 7, y, 4.5)
        yield Markup('<text x="{:.1f}" y="{}">{}</text>').format(x + 20, y + 4, clip(label, 90))


def _scale(chart: Bars, layout: _Layout) -> Iterator[Markup]:
    for tenth in range(0, 11, 2):
        x = layout.x(tenth / 10)
        yield Markup('<path class="grid" d="M{:.1f} {}V{}"/>').format(x, layout.top, layout.bottom)
        text = Markup('<text class="mid" x="{:.1f}" y="{}">{:g}</text>')
        yield text.format(x, layout.bottom + 18, tenth / 10)
    path = Markup('<path class="axis" d="M{:.1f} {}V{}H{:.1f}"/>')
    yield path.format(layout.left, layout.top, layout.bottom, layout.right)
    text = Markup('<text class="mid label" x="{:.1f}" y="{}">{}</text>')
    yield text.format(layout.x(0.5), layout.bottom + 36, chart.value)


def _head(group: str, y: int) -> Markup:
    return Markup('<text class="label" x="2" y="{}">{}</text>').format(y - 4, group)


def _name(row: Bar, y: int, layout: _Layout) -> Markup:
    text = Markup('<text class="end" x="{:.1f}" y="{:.1f}">{}</text>')
    return text.format(layout.left - 6, y + layout.step / 2 + 4, clip(row.name, LONGEST))


def _parts(chart: Bars, row: Bar, y: int, layout: _Layout) -> Iterator[Markup]:
    at = 0.0
    for index, (label, share) in enumerate(zip(chart.parts, row.parts, strict=False)):
        if share > 0:
            tip = Markup("<title>{}, {}: {} {}</title>").format(row.name, row.group, label, number(share))
            box = _box(index, layout.x(at), y + 2, layout.x(share) - layout.left, layout.step - 4)
            yield Markup('<g class="m">{}{}</g>').format(tip, box)
        at += share
    if row.parts:
        text = Markup('<text x="{:.1f}" y="{:.1f}">{}</text>')
        yield text.format(layout.right + 8, y + layout.step / 2 + 4, number(row.parts[0]))


def _marks(chart: Bars, row: Bar, y: int, layout: _Layout) -> Iterator[Markup]:
    few, first, room = len(chart.rows) <= FEW, len(chart.parts), layout.step - 6
    known = [mark.mean for mark in row.marks if mark.mean is not None]
    if known and not few:
        span = Markup('<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/>')
        yield span.format(layout.x(min(known)), y + layout.step / 2, layout.x(max(known)))
    for index, (label, mark) in enumerate(zip(chart.marks, row.marks, strict=False)):
        if mark.mean is None:
            continue
        middle = y + 3 + room * (index + 0.5) / len(chart.marks) if few else y + layout.step / 2
        tip = Markup("<title>{}, {}: {} {}</title>").format(row.name, row.group, label, number(mark.mean))
        bar = Markup("")
        if mark.low is not None and mark.high is not None and few:
            path = Markup('<path class="b c{}" d="M{:.1f} {:.1f}H{:.1f}"/>')
            bar = path.format((first + index) % STYLES, layout.x(mark.low), middle, layout.x(mark.high))
        shape = marker(first + index, layout.x(mark.mean), middle, 3.2 if few else 4.0)
        yield Markup('<g class="m">{}{}{}</g>').format(tip, bar, shape)


def _box(style: int, x: float, y: float, width: float, height: float) -> Markup:
    box = Markup('<rect class="f c{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    return box.format(style % STYLES, x, y, width, height)
