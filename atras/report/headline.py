"""The first block of a report: the most robust network, what is not told apart from it, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from atras.analysis import (
    Interval,
    Winner,
    alone_sentence,
    confirmed_sentence,
    elsewhere,
    interval_note,
    lacks,
    not_compared,
    winners,
)
from atras.report.charts import rounded
from atras.results import Results
from atras.rounding import decimals

NAMED = 8
"""Most networks that are named of those that are not told apart from the first."""


class Fact(NamedTuple):
    """A figure of the first network.

    Args:
        label: what it is.
        value: the figure.
        note: its interval, or what it means.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Headline:
    """What a reader takes away.

    Args:
        title: names the most robust network.
        facts: its figures.
        text: sentences on the others.
        missing: what the run lacks for this to be believed; empty where nothing.
    """

    title: str
    facts: tuple[Fact, ...] = ()
    text: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def headline(results: Results, rank_by: str = "accuracy") -> Headline:
    """The first block of a run's report.

    Args:
        results: the run.
        rank_by: as in `analysis.ranking`.

    Returns:
        The block; without facts where no candidate trained.
    """
    firsts, missing = winners(results, rank_by=rank_by), tuple(lacks(results, rank_by=rank_by))
    if not firsts:
        return Headline("No candidate trained", missing=missing)
    if "" not in firsts:
        return _at_each(firsts, not_compared(results), missing)
    first = firsts[""]
    title = first.name if first.candidates == 1 else f"Most robust: {first.name}{_of_equals(first)}"
    confirmed = confirmed_sentence(results)
    text = (*_others(first), *filter(None, [interval_note(first), confirmed]))
    return Headline(title, tuple(_facts(first)), text, missing)


def _at_each(firsts: Mapping[str, Winner], caution: str, missing: tuple[str, ...]) -> Headline:
    """The first at each strength of attack, none of which is first of all."""
    facts, text = [], [caution]
    for at, first in firsts.items():
        ends = _ends(first.robust)
        facts.append(Fact(f"{first.figure}, {at}", rounded(first.robust.mean), f"{first.name}{ends and f', {ends}'}"))
        text += [f"{at}: {first.name}{_of_equals(first)}. {line}" for line in _others(first)]
    return Headline("Most robust at each strength of attack", tuple(facts), tuple(text), missing)


def _facts(first: Winner) -> list[Fact]:
    facts = [
        Fact(first.figure, rounded(first.robust.mean), _ends(first.robust)),
        Fact("clean accuracy", rounded(first.clean.mean), _ends(first.clean)),
    ]
    if first.gain is not None:
        gain = decimals(first.gain.mean, 3, signed=True)
        facts.append(Fact("gain over undefended", gain, _ends(first.gain) or "the same figure before the defence"))
    if first.worth is not None:
        facts.append(Fact(f"chosen on other {elsewhere(first)}", rounded(first.worth), "without the luck of the first"))
    return facts


def _ends(interval: Interval) -> str:
    return "" if interval.low is None else f"{rounded(interval.low)} to {rounded(interval.high)}"


def _of_equals(first: Winner) -> str:
    """That the first is one of several, beside its name: large type is believed."""
    equals = first.eligible if first.tied is None else len(first.tied) + 1
    return f", one of {equals} that cannot be told apart" if equals > 1 else ""


def _others(first: Winner) -> list[str]:
    if first.candidates == 1:
        return []
    if first.eligible == 1:
        return [alone_sentence(first)]
    if first.tied is None:
        return [_no_ranks(first)]
    others = "other" if first.eligible == 2 else f"{first.eligible - 1} others"
    if first.eligible < first.candidates:
        others += " that may be first"  # the rest did not train, or see nothing of the images
    if not first.tied:
        return [
            f"It is told apart from {'the' if first.eligible == 2 else 'all'} {others}, at 95 % for all pairs together."
        ]
    more = f" and {len(first.tied) - NAMED} more" if len(first.tied) > NAMED else ""
    count = f"{'' if first.eligible == 2 else f'{len(first.tied)} of '}the {others}"
    return [f"Not distinguishable from it (95 %): {count}: {', '.join(first.tied[:NAMED])}{more}."]


def _no_ranks(first: Winner) -> str:
    why = "One seed gives no ranks" if first.seeds == 1 else "No ranks, as too few seeds are common to all"
    which = f"any of the {first.eligible}"
    if first.eligible < first.candidates:
        which += f" (of {first.candidates}) that trained and see the images"
    return f"{why}: two seeds of one network differ as two networks do, so that {which} may be the first."
