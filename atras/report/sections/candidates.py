"""The candidates: their table, their place between clean and robust accuracy, what the defence gave back."""

from __future__ import annotations

from typing import Any, get_args

import polars as pl

from atras.analysis import paper_tables
from atras.report.charts.intervals import Estimate
from atras.report.charts.plots import Chart, Point, Table
from atras.report.charts.scales import linear, logarithmic, number
from atras.results.results import Results
from atras.results.schemas import ACCURACIES

from . import population as pop
from .population import WHITE_BOX, BEFORE, CLEAN_AFTER, CLEAN_BEFORE, STATIC, WORST, Entry
from .section import Section, depth_chart


def candidates(results: Results, rows: list[Entry]) -> Section:
    winner = pop.best(rows)
    text = [
        "Robust accuracy is the share of attacked test images that are still classified correctly. White-box: attacked "
        "anew, knowing the defended network. Static: the old attack, made before the defence, as in the paper."
    ]
    several = any(row.seeds > 1 for row in rows)
    if winner is None:
        text.append("No candidate trained.")
    else:
        found = winner.figures[WHITE_BOX]
        text.insert(
            0, f"Highest white-box robust accuracy: {winner.name} with {_with_interval(found)}.{_ties(winner, rows)}"
        )
    text.append(
        "Figures are means over the seeds that trained, with 95 % bootstrap intervals; the status is the worst seed's."
        if several
        else "In brackets: 95 % Wilson intervals."
    )
    tables = [_candidate_table(rows, several)]
    if several:
        tables.append(_member_table(results))
    return Section("candidates", "Candidates", tuple(text), tables=tuple(tables))


def _ties(winner: Entry, rows: list[Entry]) -> str:
    """How many others the winner cannot be told from by its interval."""
    low = winner.figures[WHITE_BOX].low
    highs = [row.figures[WHITE_BOX].high for row in rows if row.trained and row is not winner]
    near = 0 if low is None else sum(high is not None and high >= low for high in highs)
    return f" The intervals of {near} others overlap its own." if near > 1 else ""


_SHOWN = (
    (WHITE_BOX, "robust, white-box"),
    (STATIC, "robust, static"),
    (WORST, "worst case"),
    (BEFORE, "robust before"),
    (CLEAN_AFTER, "clean"),
    (CLEAN_BEFORE, "clean before"),
)


def _candidate_table(rows: list[Entry], several: bool) -> Table:
    # With one attack the worst case is the white-box figure over again.
    same = all(row.figures[WORST] in (row.figures[WHITE_BOX], Estimate(None)) for row in rows)
    first, *others = [(key, label) for key, label in _SHOWN if key != WORST or not same]
    columns = ("hidden layers", first[1], "depth", "parameters", *(label for _, label in others), "status")
    cells = [
        (
            row.name,
            _with_interval(row.figures[first[0]]),
            str(row.depth),
            str(row.parameters),
            *(_with_interval(row.figures[key]) for key, _ in others),
            row.status,
            *((f"{row.trained} of {row.seeds}",) if several else ()),
        )
        for row in rows
    ]
    return Table("Every candidate", (*columns, *(("seeds trained",) if several else ())), tuple(cells), sortable=True)


def _member_table(results: Results) -> Table:
    kept = [name for name in ACCURACIES if results.table[name].null_count() < len(results.table)]
    columns = ("hidden_layers", "depth", "seed", "status", *kept)
    rows = [
        tuple(number(cell) if isinstance(cell, float) or cell is None else str(cell) for cell in row)
        for row in results.table.select(columns).iter_rows()
    ]
    return Table("Every member", tuple(name.replace("_", " ") for name in columns), tuple(rows), sortable=True)


def _with_interval(figure: Any) -> str:
    low, high = figure.low, figure.high
    return number(figure.mean) if low is None else f"{number(figure.mean)} ({low:.3f} to {high:.3f})"


def scatter(rows: list[Entry]) -> Section:
    title = "Clean and robust accuracy"
    good = [row for row in rows if row.trained and row.figures[WHITE_BOX].mean is not None]
    if not good:
        return Section("scatter", title, ("No candidate trained and was attacked after its defence.",))
    biggest = max(row.parameters for row in good)

    def against_clean(row: Entry) -> Point | None:
        return _point(row, row.figures[CLEAN_AFTER].mean, radius=3.5 + 4.5 * (row.parameters / biggest) ** 0.5)

    def against_size(row: Entry) -> Point | None:
        return _point(row, row.parameters, clean=False)

    robust = [end for row in good for end in row.figures[WHITE_BOX] if end is not None]
    clean = [end for row in good for end in row.figures[CLEAN_AFTER] if end is not None]
    y = linear("white-box robust accuracy", robust, 0, 1)
    summary = _range_summary(good)
    figures = [
        Chart(
            "clean-robust",
            "Robust against clean accuracy, defended networks",
            f"{summary} Colour and shape give the depth, size the parameters; bars are 95 % intervals.",
            linear("clean accuracy", clean, 0, 1),
            y,
            pop.by_depth(good, against_clean),
        ),
        Chart(
            "parameters-robust",
            "Robust accuracy against size",
            f"{summary} Parameters are on a logarithmic scale; bars are 95 % intervals.",
            logarithmic("parameters", [row.parameters for row in good]),
            y,
            pop.by_depth(good, against_size),
        ),
    ]
    left_out = len(rows) - len(good)
    text = (f"Not shown: {left_out} of {len(rows)} candidates, of which no seed trained.",) if left_out else ()
    return Section("scatter", title, text, tuple(figures))


def _point(row: Entry, x: float | None, *, radius: float = 4.5, clean: bool = True) -> Point | None:
    y = row.figures[WHITE_BOX]
    if x is None or y.mean is None:
        return None
    sides = row.figures[CLEAN_AFTER] if clean else None
    low, high = (sides.low, sides.high) if sides else (None, None)
    return Point(x, y.mean, y.low, y.high, low, high, row.name, radius)


def _range_summary(rows: list[Entry]) -> str:
    ordered = sorted(rows, key=lambda row: row.figures[WHITE_BOX].mean or 0.0)
    low, high = ordered[0], ordered[-1]
    return (
        f"{len(rows)} candidates; white-box robust accuracy from {number(low.figures[WHITE_BOX].mean)} ({low.name}) "
        f"to {number(high.figures[WHITE_BOX].mean)} ({high.name})."
    )


def recovery(results: Results) -> Section:
    trained = results.table.filter(pl.col("status") == "trained")
    found = {
        "white-box": pop.depth_means(trained, "recovery_white_box"),
        "static": pop.depth_means(trained, "recovery_static"),
    }
    text = ["Recovery is robust accuracy after the defence minus robust accuracy before it, averaged over members."]
    if results.dataset in get_args(paper_tables.PaperName):
        found["paper (static)"] = pop.depth_means(_paper_recovery(results.dataset), "recovery")
        text.append(
            "The paper's figures are those of its table, over the rows that trained; its attack is the static one."
        )
    else:
        text.append(
            "The paper has no table of this data set: run with --dataset mnist or --dataset cifar10 to compare."
        )
    found = {label: means for label, means in found.items() if means}
    if not found:
        text.append("No candidate trained and was defended: run with --adversarial-epochs 1 or more.")
        return Section("recovery", "Recovery by depth", tuple(text))
    chart = depth_chart("recovery", "Recovery by depth", "recovery", found)
    return Section("recovery", "Recovery by depth", tuple(text), (chart,))


def _paper_recovery(dataset: Any) -> pl.DataFrame:
    recovery = pl.col("attacked_accuracy_after") - pl.col("attacked_accuracy_before")
    depth = pl.col("hidden_layers").str.count_matches("-").cast(pl.Int64) + 1
    return paper_tables.trained_rows(dataset).select(depth.alias("depth"), recovery.alias("recovery"))
