"""The first of a ranking: what it is, which others are not told apart from it, and what is missing to believe it."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

import polars as pl

from atras.errors import printable
from atras.registry import name_of
from atras.results import Results
from atras.rounding import counted, decimals

from .confirmed import confirmed_sentence
from .statistics import (
    Interval,
    chosen_elsewhere,
    column_terms,
    eligible,
    independent_images,
    members_interval,
    ordered,
    ranking,
    require_alike,
    robust_column,
    seeds_note,
)

SHOWN = 5
"""Most candidates that are named of those that are not told apart from the first."""

ONE_STEP = ("fgsm", "random-fgsm")
"""Attacks of one step, which leave more than those that go on."""

FIGURES = {
    "worst_case_accuracy_after": "worst-case robust accuracy",
    "attacked_accuracy_after_white_box": "white-box robust accuracy",
    "worst_case_accuracy_before": "worst-case robust accuracy",
    "attacked_accuracy_before_true": "white-box robust accuracy",
    "balanced_accuracy_after_worst_case": "balanced worst-case robust accuracy",
    "balanced_accuracy_after_white_box": "balanced white-box robust accuracy",
}
"""What candidates are ranked by, in words, by column of the table."""

_UNDEFENDED = {
    "worst_case_accuracy_after": "worst_case_accuracy_before",
    "attacked_accuracy_after_white_box": "attacked_accuracy_before_true",
}
"""The same figure before the defence."""


class Winner(NamedTuple):
    """The first of a ranking.

    Args:
        name: the candidate.
        figure: what it is first by, in words.
        robust: that figure, with its interval.
        clean: accuracy on clean test images, likewise; in both a seed that did not train counts 0, as in `ranking`.
        gain: robust accuracy less the same before the defence, over the seeds that have both; None without a defence,
            or of a balanced figure.
        seeds, candidates: of the winner, and how many there are.
        eligible: those that may be first: they trained, and where any sees the images they do.
        tied: the others that are not told apart from it; None where nothing tells (one seed).
        within: networks that are told apart from it though their figure lies within its interval.
        worth: accuracy of what is first on other seeds than those that measure it; None from one seed.
        worth_images: whether on other images too, as where outcomes are kept.
    """

    name: str
    figure: str
    robust: Interval
    clean: Interval
    gain: Interval | None
    seeds: int
    candidates: int
    eligible: int
    tied: tuple[str, ...] | None
    within: int
    worth: float | None
    worth_images: bool


def winner(results: Results, *, rank_by: str = "accuracy") -> Winner | None:
    """The candidate that is first by its worst case, or by the strongest attack measured; None where none trained.

    Args:
        results: a run.
        rank_by: as in `robust_column`.

    Raises:
        InputError: as `robust_column`, or if the run has figures at several strengths of attack: see `winners`.
    """
    results = results.flattened
    column = robust_column(results, rank_by)
    results = require_alike(results, column, "winner")
    frame = ranking(results, column)
    if not len(frame) or not frame["trained"][0]:
        return None
    first = frame.row(0, named=True)
    clean = ordered(results, results.final.clean).filter(hidden_layers=first["hidden_layers"])
    own = results.table.filter(hidden_layers=first["hidden_layers"], status="trained")
    worth = chosen_elsewhere(results, rank_by=rank_by) if len(frame) > 1 else None
    return Winner(
        first["hidden_layers"],
        FIGURES[column],
        Interval(first["mean"], first["low"], first["high"]),
        Interval(*clean.select("mean", "low", "high").row(0)),
        _gain(results, own, column),
        first["seeds"],
        len(frame),
        int(eligible(frame).sum()),
        None if first["tied"] is None else tuple(first["tied"]),
        _within(frame, first),
        None if worth is None else worth.accuracy,
        worth is not None and worth.images,
    )


def winners(results: Results, *, rank_by: str = "accuracy") -> dict[str, Winner]:
    """The first at each strength of attack, such as `epsilon=0.1`: figures at different ones are not compared.

    Args:
        results: a run.
        rank_by: as in `robust_column`.

    Returns:
        By the strength, of most runs one by an empty text; without those at which no candidate trained.

    Raises:
        InputError: as `robust_column`.
    """
    parts = _parts(results, rank_by).items()
    return {at: first for at, part in parts if (first := winner(part, rank_by=rank_by)) is not None}


def _parts(results: Results, rank_by: str) -> dict[str, Results]:
    results = results.flattened
    return results.measured_alike(robust_column(results, rank_by))


def _within(frame: pl.DataFrame, first: dict[str, Any]) -> int:
    """How many networks are told apart from the first though their mean lies within its interval."""
    if first["tied"] is None or first["low"] is None:
        return 0
    compared = frame.filter(eligible(frame))[1:]
    return compared.filter(~pl.col("hidden_layers").is_in(first["tied"]), pl.col("mean") >= first["low"]).height


def interval_note(first: Winner) -> str:
    """Why the interval of the first seems to say another thing than its ranks; empty where it does not."""
    if not first.within:
        return ""
    told = "a network is" if first.within == 1 else f"{first.within} networks are"
    return (
        f"Its interval is by its own {counted(first.seeds, 'seed')} alone, and {told} told apart from it within that: "
        "comparisons take the spread of seeds from all networks together, and meet the same images."
    )


def _gain(results: Results, own: pl.DataFrame, column: str) -> Interval | None:
    """Seed by seed, after the defence less before it, on the same test images."""
    if column not in _UNDEFENDED:
        return None
    before = _UNDEFENDED[column]
    gains = own.select("hidden_layers", "seed", gain=pl.col(column) - pl.col(before)).drop_nulls("gain")
    if gains.is_empty():
        return None
    terms = [*column_terms(results, column, gains), *column_terms(results, before, gains, sign=-1)]
    return members_interval(gains, "gain", terms, independent_images(results, column))


def lacks(results: Results, *, rank_by: str = "accuracy") -> list[str]:
    """What a run lacks for its ranking to be believed, a sentence each; nothing where nothing is missing.

    Args:
        results: a run.
        rank_by: as in `robust_column`.

    Raises:
        InputError: as `robust_column`.
    """
    missing = results.missing()
    return [
        *([f"Not finished: {missing}."] if missing else []),
        *_few_attacks(results),
        *(
            f"{at}: {line}" if at else line
            for at, part in _parts(results, rank_by).items()
            for line in _at_chance(part, rank_by)
        ),
        *filter(None, [seeds_note(results.table["seed"].n_unique()) if len(results.table) else ""]),
    ]


def _few_attacks(results: Results) -> list[str]:
    """A caution where nothing but one step attacked the networks that the run ends with."""
    rows = results.metrics.filter(
        pl.col("epoch").is_null(), pl.col("attack") != "none", mode="white-box", split="test", phase=results.final.phase
    )
    names = {name_of(attack) for attack in rows["attack"].unique()}
    if not names or not names <= set(ONE_STEP):
        return []
    which = "FGSM alone" if names == {"fgsm"} else "Attacks of one step alone"
    return [f"{which}: one step leaves more than stronger attacks would; run with --attack pgd or --attack autoattack."]


def _at_chance(results: Results, rank_by: str) -> list[str]:
    """A caution where the first is no better than an answer that does not depend on the image."""
    frame, share = ordered(results, rank_by=rank_by), results.majority_share
    if not len(frame) or not frame["trained"][0]:
        return []
    first = frame.row(0, named=True)
    if not first["clear"]:
        return ["At chance level: no network is clearly better than always answering one class; train for longer."]
    if share is not None and first["mean"] <= share and not rank_by.startswith("balanced"):
        return [
            f"At chance level under attack: always answering the most frequent class has {decimals(share, 3)}, which "
            "no attack changes."
        ]
    return []


def winner_sentences(results: Results, *, rank_by: str = "accuracy") -> list[str]:
    """The winner, what is not told apart from it, and what the choice is worth; nothing without one. Where figures are
    at several strengths of attack, those of each at which several networks were measured.

    Args:
        results: a run.
        rank_by: as in `robust_column`.

    Raises:
        InputError: as `robust_column`.
    """
    firsts = winners(results, rank_by=rank_by)
    told = [line for at, first in firsts.items() if not at or first.candidates > 1 for line in _of_first(first, at)]
    notes = dict.fromkeys(seeds_note(first.seeds) for first in firsts.values()) if told else {}
    return [*told, *filter(None, [*notes, confirmed_sentence(results)])]


def _of_first(first: Winner, at: str) -> list[str]:
    mean, low, high = first.robust
    ends = "" if low is None or high is None else f" ({decimals(low, 3)} to {decimals(high, 3)})"
    where = f"At {at}, first" if at else "First"
    sentences = [f"{where} by {first.figure}: {printable(first.name)} with {decimals(mean, 4)}{ends}."]
    if first.eligible > 1:
        return [*sentences, _ties(first), *filter(None, [interval_note(first)]), _worth(first)]
    return [*sentences, *([alone_sentence(first)] if first.candidates > 1 else [])]


def alone_sentence(first: Winner) -> str:
    """Of a winner that is compared with nothing: why no other candidate could be first."""
    return f"It alone of {first.candidates} may be first: the others did not train, or see nothing of the images."


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


def _ties(first: Winner) -> str:
    """Which others are not told apart from the first."""
    tied = first.tied
    if tied is None:
        why = "one seed gives none" if first.seeds == 1 else "too few seeds are common to all"
        return f"No ranks: {why}, since two seeds of one network differ as two networks do; run with --seeds 0-4."
    if not tied:
        which = "" if first.eligible == first.candidates else " that may be first"
        return f"It is told apart from all others{which} (at 95 %, all pairs together)."
    more = f" and {len(tied) - SHOWN} more" if len(tied) > SHOWN else ""
    return f"{len(tied)} not distinguishable from it: {printable(', '.join(tied[:SHOWN]))}{more}."


def _worth(first: Winner) -> str:
    """What the choice is worth on seeds, and images, that did not choose."""
    rest = first.candidates - first.eligible
    others = f" of {first.candidates} ({rest} did not train, or see nothing of the images)" if rest else ""
    best = f"best of {first.eligible}{others}"
    if first.worth is None:
        return f"Its figure is the {best}, and so also luck; several seeds would tell how much."
    where, worth = elsewhere(first), decimals(first.worth, 4)
    return f"As the {best} it is also luck: chosen on other {where}, what is first has {worth}."


def elsewhere(first: Winner) -> str:
    """On which others `worth` was chosen than it is measured on."""
    return "seeds and images" if first.worth_images else "seeds"
