"""Tables of plain text that fit a terminal: what finds no room is left out, and a name too long has its own line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

GAP = 1
"""Spaces before a column."""


class Column(NamedTuple):
    """A column of figures: its name, its heading in two lines, and the fewest characters of its cells."""

    name: str
    above: str
    below: str = ""
    least: int = 6

    @property
    def width(self) -> int:
        return max(self.least, len(self.above), len(self.below))


def columns_within(columns: Sequence[Column], room: int, needed: int) -> list[Column]:
    """The first columns that fit so much room; those that are needed whatever it is."""
    kept, used = [], 0
    for place, column in enumerate(columns):
        used += GAP + column.width
        if place >= needed and used > room:
            break
        kept.append(column)
    return kept


def width_of(columns: Sequence[Column]) -> int:
    """Characters that columns take with the spaces before them."""
    return sum(GAP + column.width for column in columns)


def name_width(names: Sequence[str], width: int, room: int) -> int:
    """Characters of the column of names: those of the longest name within 7 / 20 of a line.

    Args:
        names: all of them.
        width: of a line.
        room: most characters for them.
    """
    most = min(max(14, 7 * width // 20), room)
    return max([len("network"), *(len(name) for name in names if len(name) <= most)])


def fitted_width(first: str, names: Sequence[str], columns: Sequence[Column], width: int) -> int:
    """Characters of the column of names beside columns that are all shown: the longest name's, where there is room.

    Args:
        first: its heading.
        names: all of them; a longer one has a line of its own.
        columns: beside it.
        width: of a line.
    """
    room = width - width_of(columns)
    return max([len(first), *(len(name) for name in names if len(name) <= room)])


def heading_lines(first: str, first_width: int, columns: Sequence[Column]) -> list[str]:
    """The two lines above a table."""
    above, below = ("".join(f" {column[line]:>{column.width}}" for column in columns) for line in (1, 2))
    return [f"{first:<{first_width}}{above}".rstrip(), f"{'':<{first_width}}{below}".rstrip()]


def row_lines(name: str, first_width: int, cells: Sequence[str], columns: Sequence[Column], width: int) -> list[str]:
    """A row; a name that is too long stands on lines of its own above its figures."""
    figures = "".join(f" {cell:>{column.width}}" for cell, column in zip(cells, columns, strict=True))
    if len(name) <= first_width:
        return [f"{name:<{first_width}}{figures}"]
    pieces = [name[start : start + width] for start in range(0, len(name), width)]
    return [*pieces, f"{'':<{first_width}}{figures}"]
