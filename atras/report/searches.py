"""The report of a search: its rounds, which candidates were dropped in each and why, then its last finished round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from atras.analysis import ranking
from atras.errors import InputError
from atras.report.charts import Chart, Point, Series, Table, categories, linear, rounded
from atras.report.contents import Contents, contents
from atras.report.headline import Headline, headline
from atras.report.section import Section
from atras.results import Results, read
from atras.rounding import counted
from atras.search import FinishedRound, finished_rounds
from atras.storage import expanded

HOLD_OUT = "hold-out"


class _Ranked(NamedTuple):
    """A round with its run, and what `ranking` says of it by candidate."""

    round: FinishedRound
    results: Results
    rows: dict[str, dict[str, Any]]

    @property
    def images(self) -> str:
        return HOLD_OUT if self.round.held_out else "test images"


def search_contents(directory: str | Path) -> Contents:
    """The sections of a search's report.

    Args:
        directory: its folder.

    Returns:
        The section of its rounds, then those of the last round that is done.

    Raises:
        InputError: if there is no search in it or none of its rounds is done, or a section cannot be made.
    """
    folder = expanded(directory)
    done, told = finished_rounds(folder)
    if not done:
        raise InputError(f"{directory}: expected a search with a finished round, got none; go on with --resume")
    rounds = [_ranked(each, told["rank_by"]) for each in done]
    last = rounds[-1]
    first, own = headline(last.results, told["rank_by"]), search_section(rounds, told)
    if last.round.held_out:
        first = _unfinished(first, len(done), told["rounds"])
    made = contents([last.results])
    notes = tuple((*([_HOLD_OUT_NOTICE] if last.round.held_out else []), *each) for each in made.notices)
    name = folder.resolve().name
    if made.comparison is not None:
        return replace(made, notices=notes, overall=first, title=name, search=own)
    return Contents((name,), ((own, *made.runs[0]),), notes, (first,), None)


_HOLD_OUT_NOTICE = (
    "This search is not finished: all figures are of the hold-out, images held out of the training set, by which "
    "candidates are chosen. Where test images are spoken of below, the hold-out is meant."
)


def _unfinished(first: Headline, done: int, every: int) -> Headline:
    missing = f"The search is not finished: {done} of {counted(every, 'round')} done, and no figure of test images."
    return replace(first, title=f"{first.title} (on the {HOLD_OUT})", missing=(missing, *first.missing))


def _ranked(each: FinishedRound, rank_by: str) -> _Ranked:
    results = read(each.folder)
    return _Ranked(each, results, {row["hidden_layers"]: row for row in ranking(results, rank_by=rank_by).to_dicts()})


def search_section(rounds: list[_Ranked], told: dict[str, Any]) -> Section:
    """All rounds, and every candidate with the round that dropped it.

    Args:
        rounds: those that are done.
        told: what the record says.

    Returns:
        The section.
    """
    first, share = rounds[0].round, f"{told['train_share']:.0%}"
    what = "network" if rounds[0].results.run["protocol"].get("axes") else "candidate"
    text = [
        f"{counted(first.plan.candidates, what)} in {counted(told['rounds'], 'round')}, for {told['spent']} of "
        f"{told['budget']} candidate-epochs. Each round but the last trains on {share} of the training images and "
        f"ranks on the {HOLD_OUT}: the other training images, drawn class by class. The last trains on all training "
        "images and is measured on the test images, which chose nothing before it.",
        f"A {what} is dropped for its rank alone. One that is not distinguishable from the last that was kept may "
        "have been dropped by chance.",
    ]
    if told["warnings"]:
        text.append(" ".join(map(str, told["warnings"])))
    tables = (_rounds_table(rounds), _candidates_table(rounds))
    return Section("search", "The search, round by round", tuple(text), (_chart(rounds),), tables)


def _rounds_table(rounds: list[_Ranked]) -> Table:
    columns = ("round", "networks", "epochs", "adversarial epochs", "cost", "ranked on", "kept", "first", "accuracy")
    rows = []
    for each in rounds:
        plan, best = each.round.plan, each.round.ranking[0]
        kept = str(each.round.kept) if each.round.held_out else "-"
        counts = map(str, (each.round.number, plan.candidates, plan.epochs, plan.adversarial_epochs, plan.cost))
        rows.append((*counts, each.images, kept, best, _accuracy(each.rows[best])))
    return Table("Rounds", columns, tuple(rows))


def _accuracy(row: dict[str, Any]) -> str:
    low, high = row["low"], row["high"]
    return rounded(row["mean"]) if low is None else f"{rounded(row['mean'])}\n{rounded(low)} to {rounded(high)}"


def _candidates_table(rounds: list[_Ranked]) -> Table:
    """The finalists first, then those that were dropped last."""
    rows = []
    for each in reversed(rounds):
        final = each is rounds[-1]
        for rank, name in enumerate(each.round.ranking, start=1):
            dropped = each.round.held_out and rank > each.round.kept
            if final or dropped:
                told = _fate(each, rank, name) if dropped else _place(each, rank, name)
                rows.append((name, *told))
    columns = ("network", "dropped in round", "rank there", "robust accuracy there", "measured on", "why")
    return Table("Every candidate", columns, tuple(rows), sortable=True)


def _place(each: _Ranked, rank: int, name: str) -> tuple[str, ...]:
    what = "goes on" if each.round.held_out else "trained in full"
    return "-", f"{rank} of {len(each.round.ranking)}", _accuracy(each.rows[name]), each.images, what


def _fate(each: _Ranked, rank: int, name: str) -> tuple[str, ...]:
    """Why a candidate was dropped, and whether it could as well have been kept."""
    row, kept = each.rows[name], each.round.kept
    border = each.rows[each.round.ranking[kept - 1]]
    if not row["trained"]:
        why = "no seed trained"
    elif not row["clear"] and border["clear"]:
        why = "no better than always answering one class"
    else:
        why = f"below the first {kept}, of which the last has {rounded(border['mean'])}"
        if row["tied"] is None:
            why += "; one seed tells none of them apart"
        elif border["hidden_layers"] in row["tied"]:
            why += "; not distinguishable from it"
    place = f"{rank} of {len(each.round.ranking)}"
    return str(each.round.number), place, _accuracy(row), each.images, why


def _chart(rounds: list[_Ranked]) -> Chart:
    """A mark for each candidate of each round, by whether it was kept."""
    marks: dict[str, list[Point]] = {"kept": [], "dropped": []}
    for index, each in enumerate(rounds):
        for rank, name in enumerate(each.round.ranking, start=1):
            row = each.rows[name]
            if row["trained"]:
                kept = not each.round.held_out or rank <= each.round.kept
                shift, label = (-0.08, "kept") if kept else (0.08, "dropped")
                label_of = name if rank == 1 else ""
                marks[label].append(
                    Point(index + shift, row["mean"], row["low"], row["high"], name=name, label=label_of)
                )
    names = [f"{each.round.number}: {each.images}" for each in rounds]
    dropped = sum(len(each.round.ranking) - each.round.kept for each in rounds)
    first = rounds[-1].round.ranking[0]
    return Chart(
        "search-rounds",
        "Robust accuracy in each round",
        f"{counted(dropped, 'candidate')} dropped; {first} is first in the last round, with "
        f"{rounded(rounds[-1].rows[first]['mean'])} on the {rounds[-1].images}.",
        categories("round, and what it was measured on", names),
        linear("robust accuracy", [0.0, 1.0], 0, 1),
        tuple(Series(label, index, tuple(points)) for index, (label, points) in enumerate(marks.items()) if points),
    )
