"""Room that texts take in charts: lines of a label, and labels that do not run into each other."""

from __future__ import annotations

import math
from textwrap import wrap

from .scales import Axis

LINE, CHARACTER = 14, 6.4
"""Height of a line of a label, and the width that a character takes."""


def legend_lines(label: str, width: int) -> list[str]:
    """An entry of a legend that stands below: in as many lines as it takes, none of it left out."""
    return wrap(label, int((width - 40) / CHARACTER), break_on_hyphens=False) or [""]


def tick_labels(axis: Axis, room: int) -> list[list[str]]:
    """Lines of the label below each tick; a name that is wider than its share of the axis takes several.

    Args:
        axis: a horizontal scale.
        room: its length.
    """
    if not axis.names:
        return [[text] for text in _apart(axis, room)]
    share = max(4, int(room / len(axis.names) / CHARACTER) - 1)
    return [_wrapped(text, share) for _, text in axis.ticks]


def _apart(axis: Axis, room: int) -> list[str]:
    """The texts of the ticks, empty where one would run into the one before."""
    texts, free = [], -math.inf
    for value, text in axis.ticks:
        middle, half = axis.share(value) * room, CHARACTER * len(text) / 2
        kept = middle - half >= free
        texts.append(text if kept else "")
        free = middle + half + 4 if kept else free
    return texts


def _wrapped(text: str, room: int) -> list[str]:
    """Lines of at most that many characters, three at most; a longer word breaks after its parentheses."""
    if max(map(len, text.split()), default=0) > room:
        text = text.replace("(", "( ")
    lines = wrap(text, room, break_on_hyphens=False, max_lines=3, placeholder="…")
    return [line.replace("( ", "(") for line in lines] or [""]
