"""Heat maps: accuracies in a square, as SVG."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .plots import TOP, Table, element
from .scales import number
from .style import BINS


@dataclass(frozen=True)
class HeatMap:
    """A square of accuracies.

    Args:
        name, title, summary: as of a chart.
        names: of rows (sources, downwards) and columns (targets).
        layers: values [row][column] by their label, the one drawn first; hovering shows all.
        value: what the colours show.
        span: of differences, the largest that has a colour of its own, on either side of 0; None for shares of 1.
    """

    name: str
    title: str
    summary: str
    names: tuple[str, ...]
    layers: dict[str, tuple[tuple[float | None, ...], ...]]
    value: str = "accuracy of the target"
    span: float | None = None

    @property
    def table(self) -> Table:
        """The values that are drawn, a row for each source."""
        values = next(iter(self.layers.values()))
        rows = [(name, *map(number, row)) for name, row in zip(self.names, values, strict=True)]
        return Table("Data", ("source \\ target", *self.names), tuple(rows))

    def svg(self, *, standalone: bool = False, narrow: bool = False) -> Markup:
        """The map as an `svg` element.

        Args:
            standalone: with its style and title in it, as a file of its own.
            narrow: makes no difference: a square is scaled to its page.

        Returns:
            The markup.
        """
        del narrow
        cell = max(12, min(36, 520 // max(len(self.names), 1)))
        label = 12 + round(5.6 * max(map(len, self.names)))
        size = cell * len(self.names)
        body = [*_cells(self, cell, label), *_names(self.names, cell, label), _scale(self, label + size + 16, TOP)]
        grid = {"x": label, "y": TOP, "cell": cell, "names": self.names, "layers": _tenthousandths(self.layers)}
        attributes = "" if standalone else Markup(' data-grid="{}"').format(json.dumps(grid, separators=(",", ":")))
        extent = (label + size + 104, max(TOP + size + label + 22, TOP + 250))
        return element(self.title, self.summary, extent, body, attributes=attributes, standalone=standalone)

    def _repr_svg_(self) -> str:
        return self.svg(standalone=True)


def _cells(figure: HeatMap, cell: int, left: int) -> Iterable[Markup]:
    """One path for each colour; one for each cell would be five times the size."""
    values = next(iter(figure.layers.values()))
    paths: dict[str, str] = {}
    for i_row, row in enumerate(values):
        for i_column, value in enumerate(row):
            colour = "hnone" if value is None else _colour(figure, value)
            step = f"M{left + i_column * cell} {TOP + i_row * cell}h{cell}v{cell}h-{cell}z"
            paths[colour] = paths.get(colour, "") + step
    return [
        Markup('<path class="{}" shape-rendering="crispEdges" d="{}"/>').format(colour, path)
        for colour, path in sorted(paths.items())
    ]


def _names(names: Sequence[str], cell: int, left: int) -> Iterable[Markup]:
    bottom = TOP + cell * len(names)
    for index, name in enumerate(names):
        middle = cell * index + cell / 2 + 3.5
        yield Markup('<text class="end small" x="{}" y="{:.1f}">{}</text>').format(left - 5, TOP + middle, name)
        turned = Markup('<text class="end small" transform="translate({:.1f} {})rotate(-90)">{}</text>')
        yield turned.format(left + middle, bottom + 5, name)
    size = cell * len(names)
    yield Markup('<text class="mid label" x="{:.1f}" y="{}">target</text>').format(left + size / 2, bottom + left + 10)
    yield Markup('<text class="label" x="2" y="{}">source</text>').format(TOP - 2)


def _colour(figure: HeatMap, value: float) -> str:
    """The class of a value's colour: `h` and a number for shares, `d` and a number for differences."""
    share = value if figure.span is None else (value / figure.span + 1) / 2
    return f"{'h' if figure.span is None else 'd'}{min(max(int(share * BINS), 0), BINS - 1)}"


def _scale(figure: HeatMap, left: int, top: int) -> Markup:
    """The colours with their ends and middle, below what they show."""
    step, low, high = 200 // BINS, *((0.0, 1.0) if figure.span is None else (-figure.span, figure.span))
    parts = [
        Markup('<path class="{}{}" d="M{} {}h14v{}h-14z"/>').format(
            "h" if figure.span is None else "d", level, left, top + 8 + (BINS - 1 - level) * step, step
        )
        for level in range(BINS)
    ]
    for share in (0.0, 0.5, 1.0):
        y = top + 8 + (1 - share) * BINS * step + 4
        parts.append(Markup('<text x="{}" y="{:.1f}">{:.3g}</text>').format(left + 19, y, low + share * (high - low)))
    turned = Markup('<text class="mid label" transform="translate({} {})rotate(-90)">{}</text>')
    parts.append(turned.format(left + 74, top + 8 + BINS * step / 2, figure.value))
    return Markup("").join(parts)


def _tenthousandths(layers: dict[str, tuple[tuple[float | None, ...], ...]]) -> dict[str, list[int | None]]:
    return {
        label: [None if value is None else round(value * 10_000) for row in values for value in row]
        for label, values in layers.items()
    }
