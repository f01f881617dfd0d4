"""Bars in rows, one below the other: shares that lie end to end, or marks side by side, for many named rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import NamedTuple

from markupsafe import Markup

from .intervals import Estimate
from .labels import CHARACTER, LINE, legend_lines
from .markers import marker
from .plots import NARROW, WIDTH, Table, element
from .scales import Axis, interval, linear, number, rounded
from .style import STYLES

LONGEST, LONGEST_NARROW = 28, 14
"""Characters of a row's name that stand beside it; a longer one stands above, in lines of its own."""

FEW = 12
"""Rows up to which they stand far apart, the marks of a row side by side and with intervals."""

HEAD, FOOT, FIGURE = 22, 44, 46
"""Height of a group's name, height of the scale, and width of the column of figures."""


class Bar(NamedTuple):
    """A row.

    Args:
        name: of the row.
        group: rows of one group follow each other below its name; empty for none.
        parts: shares that lie end to end, in the order of the chart's `parts`.
        marks: a mark for each of the chart's `marks`; a mean of None where there is none.
    """

    name: str
    group: str
    parts: tuple[float, ...] = ()
    marks: tuple[Estimate, ...] = ()


@dataclass(frozen=True)
class Bars:
    """Rows of shares of one, or of marks on a scale from 0.

    Args:
        name, title, summary: as of a chart.
        value: name of the scale.
        rows: from top to bottom.
        parts: what the parts of each bar are, first at the left; the first is written beside the bar.
        marks: what the marks of each row are.
        joined: the marks of a row stand on one line that joins them, with the interval of the last.
        most: upper end of the scale, at least.
        of: what a row and a group are, for the table.
    """

    name: str
    title: str
    summary: str
    value: str
    rows: tuple[Bar, ...]
    parts: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    joined: bool = False
    most: float = 1.0
    of: tuple[str, str] = ("candidate", "depth")

    @property
    def axis(self) -> Axis:
        """The scale."""
        return linear(self.value, [0.0, self.most], 0)

    @property
    def table(self) -> Table:
        """The figures, a row for each row."""
        intervals = any(mark.low is not None for row in self.rows for mark in row.marks)
        grouped = any(row.group for row in self.rows)
        columns = (self.of[0], *([self.of[1]] if grouped else []), *self.parts)
        columns += tuple(text for mark in self.marks for text in ([mark, "95 % interval"] if intervals else [mark]))
        rows = []
        for row in self.rows:
            cells = [number(share) for share in row.parts]
            for mark in row.marks:
                cells += [number(mark.mean), *([interval(mark.low, mark.high)] if intervals else [])]
            rows.append((row.name, *([row.group] if grouped else []), *cells))
        return Table("Data", columns, tuple(rows))

    def svg(self, *, standalone: bool = False, narrow: bool = False) -> Markup:
        """The rows as an `svg` element.

        Args:
            standalone: with its style and title in it, as a file of its own.
            narrow: for a phone.

        Returns:
            The markup.
        """
        labels = [*self.parts, *self.marks]
        width = NARROW if narrow else WIDTH
        places, below = _legend_places(labels, width)
        layout = _Layout.of(self, below, narrow)
        body = [*_legend(self, labels, places, width), *_scale(self, layout)]
        for row, y, head in layout.rows(self.rows):
            body += [_head(row.group, y)] if head else []
            body += _name(row, y, layout)
            middle = y + layout.above(row)
            body += [*_parts(self, row, middle, layout), *_marks(self, row, middle, layout)]
        return element(self.title, self.summary, (width, layout.bottom + FOOT), body, standalone=standalone)

    def _repr_svg_(self) -> str:
        return self.svg(standalone=True)


class _Layout(NamedTuple):
    """Where things are: ends of the scale, its top and bottom, height of a row, width, longest name beside a row."""

    left: float
    right: float
    top: int
    bottom: int
    step: int
    width: int
    longest: int
    axis: Axis

    @classmethod
    def of(cls, chart: Bars, top: int, narrow: bool) -> _Layout:
        width, longest = (NARROW, LONGEST_NARROW) if narrow else (WIDTH, LONGEST)
        stacked = len(chart.marks) if not chart.joined else 1
        step = max(22, 6 * stacked + 6) if len(chart.rows) <= FEW else 16
        beside = [len(row.name) for row in chart.rows if len(row.name) <= longest]
        left = max(20 + 1.05 * CHARACTER * max(beside, default=0), 40.0 if narrow else 72.0)
        right = width - (FIGURE if chart.parts else 16)
        layout = cls(left, right, top, top, step, width, longest, chart.axis)
        heads = len({row.group for row in chart.rows if row.group})
        bottom = top + HEAD * heads + sum(step + layout.above(row) for row in chart.rows)
        return layout._replace(bottom=bottom)

    def x(self, value: float) -> float:
        return self.left + self.axis.share(value) * (self.right - self.left)

    def lines(self, row: Bar) -> list[str]:
        """Of a name that has no room beside its row."""
        room = int(self.width / CHARACTER) - 2
        return wrap(row.name, room, break_on_hyphens=False) if len(row.name) > self.longest else []

    def above(self, row: Bar) -> int:
        """Room above a row for its name."""
        return LINE * len(self.lines(row))

    def rows(self, rows: Sequence[Bar]) -> Iterator[tuple[Bar, int, bool]]:
        """Each row, its upper end, and whether it is the first of its group."""
        y, group = self.top, ""
        for row in rows:
            head = row.group != group
            y += HEAD if head else 0
            yield row, y, head
            y, group = y + self.step + self.above(row), row.group


def _legend_places(labels: Sequence[str], width: int) -> tuple[list[tuple[float, int]], int]:
    """Place of each entry of the legend, in as many lines as they take, and where what follows begins."""
    places, x, y = [], 8.0, 12
    for label in labels:
        lines = len(legend_lines(label, width))
        room = 40 + CHARACTER * len(label)
        if x > 8 and (x + room > width or lines > 1):
            x, y = 8.0, y + 20
        places.append((x, y))
        x += room
        if lines > 1:
            x, y = float(width), y + LINE * (lines - 1)
    return places, y + 16


def _legend(chart: Bars, labels: Sequence[str], places: Sequence[tuple[float, int]], width: int) -> Iterator[Markup]:
    for index, (label, (x, y)) in enumerate(zip(labels, places, strict=True)):
        if index < len(chart.parts):
            yield _box(index, x, y - 6, 14, 12)
        else:
            yield marker(index, x + 7, y, 4.5)
        for line, text in enumerate(legend_lines(label, width)):
            yield Markup('<text x="{:.1f}" y="{}">{}</text>').format(x + 20, y + 4 + LINE * line, text)


def _scale(chart: Bars, layout: _Layout) -> Iterator[Markup]:
    for value, text in layout.axis.ticks:
        x = layout.x(value)
        yield Markup('<path class="grid" d="M{:.1f} {}V{}"/>').format(x, layout.top, layout.bottom)
        label = Markup('<text class="mid" x="{:.1f}" y="{}">{}</text>')
        yield label.format(x, layout.bottom + 18, text)
    path = Markup('<path class="axis" d="M{:.1f} {}V{}H{:.1f}"/>')
    yield path.format(layout.left, layout.top, layout.bottom, layout.right)
    label = Markup('<text class="mid label" x="{:.1f}" y="{}">{}</text>')
    yield label.format((layout.left + layout.right) / 2, layout.bottom + 36, chart.value)


def _head(group: str, y: int) -> Markup:
    return Markup('<text class="label" x="2" y="{}">{}</text>').format(y - 4, group)


def _name(row: Bar, y: int, layout: _Layout) -> Iterator[Markup]:
    lines = layout.lines(row)
    for index, line in enumerate(lines, 1):
        yield Markup('<text class="halo" x="2" y="{}">{}</text>').format(y + LINE * index - 1, line)
    if not lines:
        text = Markup('<text class="end" x="{:.1f}" y="{:.1f}">{}</text>')
        yield text.format(layout.left - 6, y + layout.step / 2 + 4, row.name)


def _parts(chart: Bars, row: Bar, y: int, layout: _Layout) -> Iterator[Markup]:
    at = 0.0
    for index, (label, share) in enumerate(zip(chart.parts, row.parts, strict=False)):
        if share > 0:
            tip = _tip(row, label, share)
            box = _box(index, layout.x(at), y + 2, layout.x(share) - layout.left, layout.step - 4)
            yield Markup('<g class="m">{}{}</g>').format(tip, box)
        at += share
    if row.parts:
        text = Markup('<text x="{:.1f}" y="{:.1f}">{}</text>')
        yield text.format(layout.right + 8, y + layout.step / 2 + 4, rounded(row.parts[0]))


def _tip(row: Bar, label: str, value: float) -> Markup:
    whose = f"{row.name}, {row.group}" if row.group else row.name
    return Markup("<title>{}: {} {}</title>").format(whose, label, number(value))


def _marks(chart: Bars, row: Bar, y: int, layout: _Layout) -> Iterator[Markup]:
    few, first, room = len(chart.rows) <= FEW, len(chart.parts), layout.step - 6
    apart = few and not chart.joined
    known = [mark.mean for mark in row.marks if mark.mean is not None]
    if known and not apart:
        span = Markup('<path class="join" d="M{:.1f} {:.1f}H{:.1f}"/>')
        yield span.format(layout.x(min(known)), y + layout.step / 2, layout.x(max(known)))
    for index, (label, mark) in enumerate(zip(chart.marks, row.marks, strict=False)):
        if mark.mean is None:
            continue
        middle = y + 3 + room * (index + 0.5) / len(chart.marks) if apart else y + layout.step / 2
        bar = Markup("")
        with_bar = few and (not chart.joined or index == len(chart.marks) - 1)
        if mark.low is not None and mark.high is not None and with_bar:
            path = Markup('<path class="b c{}" d="M{:.1f} {:.1f}H{:.1f}"/>')
            ends = (layout.x(max(mark.low, 0.0)), middle, layout.x(min(mark.high, layout.axis.high)))
            bar = path.format((first + index) % STYLES, *ends)
        shape = marker(first + index, layout.x(mark.mean), middle, 3.2 if apart else 4.0)
        yield Markup('<g class="m">{}{}{}</g>').format(_tip(row, label, mark.mean), bar, shape)


def _box(style: int, x: float, y: float, width: float, height: float) -> Markup:
    box = Markup('<rect class="f c{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    return box.format(style % STYLES, x, y, width, height)
