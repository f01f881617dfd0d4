"""The first of a ranking in words, with what is to be known before it is believed."""

from __future__ import annotations

import textwrap

from atras.errors import printable
from atras.results import Results

from .statistics import chosen_elsewhere, ranking, seeds_note

SHOWN = 5
"""Most candidates that are named of those that are not told apart from the first."""


def winner_lines(results: Results, *, rank_by: str = "accuracy", width: int = 80) -> list[str]:
    """The winner, what is not told apart from it, and what the choice is worth, as plain text; nothing without one.

    Args:
        results: a run.
        rank_by: as in `robust_column`.
        width: columns of the terminal.

    Raises:
        InputError: as `robust_column`.
    """
    frame = ranking(results, rank_by=rank_by)
    if not len(frame) or not frame["trained"][0]:
        return []
    first = frame.row(0, named=True)
    ends = "" if first["low"] is None else f" ({first['low']:.3f} to {first['high']:.3f})"
    figure = "robust accuracy" if rank_by == "accuracy" else "balanced robust accuracy"
    sentences = [f"first by {figure}: {first['hidden_layers']} with {first['mean']:.3f}{ends}"]
    if len(frame) > 1:
        sentences += [_ties(first["tied"], first["seeds"]), *_worth(results, rank_by, len(frame))]
    note = seeds_note(first["seeds"])
    return [
        row
        for sentence in [*sentences, *([note] if note else [])]
        for row in textwrap.wrap(printable(sentence), width, subsequent_indent="  ", break_on_hyphens=False)
    ]


def _ties(tied: list[str] | None, seeds: int) -> str:
    """Which others are not told apart from the first."""
    if tied is None:
        why = "one seed gives none" if seeds == 1 else "too few seeds are common to all"
        return f"no ranks: {why}, as two seeds of one network differ like two networks; run with --seeds 0-4"
    if not tied:
        return "told apart from all others (95 %, all pairs together)"
    more = f" and {len(tied) - SHOWN} more" if len(tied) > SHOWN else ""
    return f"{len(tied)} not distinguishable from it: {', '.join(tied[:SHOWN])}{more}"


def _worth(results: Results, rank_by: str, candidates: int) -> list[str]:
    """What the choice is worth on seeds and images that did not choose."""
    worth = chosen_elsewhere(results, rank_by=rank_by)
    if worth is None:
        return [f"its figure is the best of {candidates}, and so also luck: with several seeds atras can tell how much"]
    return [f"{worth:.3f} on seeds and images that did not choose it: the best of {candidates} is also luck"]
