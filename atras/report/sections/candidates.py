"""The section of the candidates: a table of all, the first on top, and one of their members."""

from __future__ import annotations

import polars as pl

from atras.analysis import ordered, ranking
from atras.report.charts import Table, number, rounded
from atras.report.section import Section
from atras.results import ACCURACIES, Results
from atras.rounding import counted

from .population import BALANCED, RANK, STATIC, WHITE_BOX

UNEVEN = 0.01
"""Difference of balanced and plain accuracy from which on both are shown."""

RANKS, NAME, WORST = "rank set", "network", "worst case"


def candidates(results: Results) -> Section:
    """A row for each candidate, and with several seeds one for each member.

    Args:
        results: the run.

    Returns:
        The section.
    """
    several = results.table["seed"].n_unique() > 1
    text = [
        "Robust accuracy is the share of attacked test images that are still classified correctly. Worst case: no "
        "attack of the run turns the image. White-box: under FGSM, made anew with knowledge of the defended network. "
        "Static: under the old images, made before the defence, as in the paper.",
        *_baseline(results),
        _of_what(several),
    ]
    tables = [_candidate_table(results), *([_member_table(results)] if several else [])]
    return Section("candidates", "Candidates", tuple(text), tables=tuple(tables))


def _of_what(several: bool) -> str:
    if not several:
        return "Below each figure: the 95 % interval of the test images alone (Wilson). One seed gives no ranks."
    return (
        "Figures are means over seeds, with 95 % intervals of seeds and images below; a seed that did not train counts "
        "0. Rank set: the ranks that a network may have; all of them hold together at 95 %."
    )


def _baseline(results: Results) -> list[str]:
    share = results.majority_share
    if share is None:
        return []
    return [
        f"Baseline: always answering the most frequent class has accuracy {rounded(share)} on the test images, and a "
        "balanced accuracy (mean over classes) of 1 / classes."
    ]


def _candidate_table(results: Results) -> Table:
    ranked = ranking(results)
    shown = {label: ordered(results, column) for label, column in _columns(results).items()}
    figures = {
        label: {name: _with_interval(*rest) for name, *rest in frame.select(_PART).iter_rows()}
        for label, frame in shown.items()
    }
    whole = ranked.filter(pl.col("trained") < pl.col("seeds")).is_empty()
    statuses = _statuses(results)
    rows = tuple(
        (
            _ranks(row["rank_low"], row["rank_high"]),
            row["hidden_layers"],
            *(of_name[row["hidden_layers"]] for of_name in figures.values()),
            str(row["parameters"]),
            str(row["depth"]),
            *(() if whole else (_status(row, statuses[row["hidden_layers"]]),)),
        )
        for row in ranked.iter_rows(named=True)
    )
    columns = (RANKS, NAME, *figures, "parameters", "depth", *(() if whole else ("status",)))
    falling = WORST if WORST in figures else "white-box"
    return Table("Every candidate", columns, rows, sortable=True, head=1, falling=falling)


_PART = ("hidden_layers", "trained", "mean", "low", "high")


def _columns(results: Results) -> dict[str, str]:
    """The figures of the table by their heading; without what only says another one over again."""
    final, table = results.final, results.table
    labels = {"clean": final.clean, WORST: final.worst, "white-box": final.white_box, "static": STATIC}
    # With one attack the worst case is the white-box figure over again.
    if not table[final.worst].count() or table[final.worst].equals(table[final.white_box]):
        del labels[WORST]
    gap = (table[BALANCED] - table[WHITE_BOX]).abs().max()
    if gap is not None and gap >= UNEVEN:  # type: ignore[operator]
        labels["balanced"] = BALANCED
    return {label: column for label, column in labels.items() if table[column].count()}


def _ranks(low: int | None, high: int | None) -> str:
    if low is None:
        return "-"
    return str(low) if low == high else f"{low} to {high}"


def _with_interval(trained: int, mean: float, low: float | None, high: float | None) -> str:
    if not trained:
        return "-"
    return rounded(mean) if low is None else f"{rounded(mean)}\n{rounded(low)} to {rounded(high)}"


def _statuses(results: Results) -> dict[str, str]:
    """The status of each candidate's worst seed."""
    frame = results.table.group_by("hidden_layers", maintain_order=True).agg("status")
    return {name: max(statuses, key=RANK.index) for name, statuses in frame.iter_rows()}


def _status(row: dict[str, int], status: str) -> str:
    failed = row["seeds"] - row["trained"]
    return status if not failed or row["seeds"] == 1 else f"{status}\n{failed} of {counted(row['seeds'], 'seed')}"


def _member_table(results: Results) -> Table:
    kept = [name for name in ACCURACIES if results.table[name].null_count() < len(results.table)]
    columns = ("hidden_layers", "depth", "seed", "status", *kept)
    rows = [
        tuple(number(cell) if isinstance(cell, float) or cell is None else str(cell) for cell in row)
        for row in results.table.select(columns).iter_rows()
    ]
    names = tuple(name.replace("_", " ").replace("white box", "white-box") for name in columns)
    return Table("Every member", names, tuple(rows), sortable=True)
