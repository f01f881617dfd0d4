"""The first of a ranking in words, with what is to be known before it is believed."""

from __future__ import annotations

import textwrap

from atras.errors import printable
from atras.results import Results

from .confirmed import confirmed_sentence
from .statistics import chosen_elsewhere, ranking, robust_column, seeds_note

SHOWN = 5
"""Most candidates that are named of those that are not told apart from the first."""


def winner_sentences(results: Results, *, rank_by: str = "accuracy") -> list[str]:
    """The winner, what is not told apart from it, and what the choice is worth; nothing without one.

    Args:
        results: a run.
        rank_by: as in `robust_column`.

    Raises:
        InputError: as `robust_column`.
    """
    frame = ranking(results, rank_by=rank_by)
    if not len(frame) or not frame["trained"][0]:
        return []
    first = frame.row(0, named=True)
    ends = "" if first["low"] is None else f" ({first['low']:.3f} to {first['high']:.3f})"
    figure = _WORDS[robust_column(results, rank_by)]
    sentences = [f"First by {figure}: {printable(first['hidden_layers'])} with {first['mean']:.4f}{ends}."]
    if len(frame) > 1:
        sentences += [_ties(first["tied"], first["seeds"]), *_worth(results, rank_by, len(frame))]
    return [*sentences, *filter(None, [seeds_note(first["seeds"]), confirmed_sentence(results)])]


_WORDS = {
    "worst_case_accuracy_after": "worst-case robust accuracy",
    "attacked_accuracy_after_white_box": "white-box robust accuracy",
    "worst_case_accuracy_before": "worst-case robust accuracy",
    "attacked_accuracy_before_true": "white-box robust accuracy",
    "balanced_accuracy_after_worst_case": "balanced worst-case robust accuracy",
    "balanced_accuracy_after_white_box": "balanced white-box robust accuracy",
}


def winner_lines(results: Results, *, rank_by: str = "accuracy", width: int = 80) -> list[str]:
    """`winner_sentences` as plain text, wrapped.

    Args:
        results, rank_by: as there.
        width: columns of the terminal.

    Raises:
        InputError: as `robust_column`.
    """
    return [
        row
        for sentence in winner_sentences(results, rank_by=rank_by)
        for row in textwrap.wrap(sentence, width, subsequent_indent="  ", break_on_hyphens=False)
    ]


def _ties(tied: list[str] | None, seeds: int) -> str:
    """Which others are not told apart from the first."""
    if tied is None:
        why = "one seed gives none" if seeds == 1 else "too few seeds are common to all"
        return f"No ranks: {why}, since two seeds of one network differ as two networks do; run with --seeds 0-4."
    if not tied:
        return "It is told apart from all others (at 95 %, all pairs together)."
    more = f" and {len(tied) - SHOWN} more" if len(tied) > SHOWN else ""
    return f"{len(tied)} not distinguishable from it: {printable(', '.join(tied[:SHOWN]))}{more}."


def _worth(results: Results, rank_by: str, candidates: int) -> list[str]:
    """What the choice is worth on seeds and images that did not choose."""
    worth = chosen_elsewhere(results, rank_by=rank_by)
    if worth is None:
        return [f"Its figure is the best of {candidates}, and so also luck; several seeds would tell how much."]
    return [
        f"As the best of {candidates} it is also luck: chosen on other seeds and images, what is first has {worth:.4f}."
    ]
