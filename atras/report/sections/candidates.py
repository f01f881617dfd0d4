"""The section of the candidates: the most robust one, a table of all, and one of their members."""

from __future__ import annotations

from atras.analysis import winner_sentences
from atras.report.charts import Estimate, Table, number
from atras.report.section import Section
from atras.results import ACCURACIES, Results

from .population import (
    BALANCED,
    BEFORE,
    CLEAN_AFTER,
    CLEAN_BEFORE,
    STATIC,
    WHITE_BOX,
    WORST,
    Entry,
    entries,
)

UNEVEN = 0.01
"""Difference of balanced and plain accuracy from which on both are shown."""

_SHOWN = (
    (WHITE_BOX, "robust, white-box"),
    (STATIC, "robust, static"),
    (WORST, "worst case"),
    (BALANCED, "robust, balanced"),
    (BEFORE, "robust before"),
    (CLEAN_AFTER, "clean"),
    (CLEAN_BEFORE, "clean before"),
)


def candidates(results: Results) -> Section:
    """A row for each candidate, and with several seeds one for each member.

    Args:
        results: the run.

    Returns:
        The section.
    """
    rows = entries(results)
    several = any(row.seeds > 1 for row in rows)
    text = [
        _headline(results),
        "Robust accuracy is the share of attacked test images that are still classified correctly. White-box: attacked "
        "anew, with knowledge of the defended network. Static: the old attack, made before the defence, as in the "
        "paper.",
        *_baseline(results),
        "Figures are means over the seeds that trained, with 95 % intervals of seeds and images; the status is the "
        "worst seed's."
        if several
        else "In brackets: 95 % intervals of the test images alone (Wilson).",
    ]
    tables = [_candidate_table(rows, several), *([_member_table(results)] if several else [])]
    return Section("candidates", "Candidates", tuple(text), tables=tuple(tables))


def _baseline(results: Results) -> list[str]:
    share = results.majority_share
    if share is None:
        return []
    return [
        f"Baseline: always answering the most frequent class has accuracy {number(share)} on the test images, and a "
        "balanced accuracy (mean over classes) of 1 / classes."
    ]


def _headline(results: Results) -> str:
    return " ".join(winner_sentences(results)) or "No candidate trained."


def _candidate_table(rows: tuple[Entry, ...], several: bool) -> Table:
    # With one attack the worst case is the white-box figure over again, and so is the mean over even classes.
    same = all(row.figures[WORST] in (row.figures[WHITE_BOX], Estimate(None)) for row in rows)
    even = all(_near(row.figures[BALANCED].mean, row.figures[WHITE_BOX].mean) for row in rows)
    left_out = {key for key, absent in ((WORST, same), (BALANCED, even)) if absent}
    first, *others = [(key, label) for key, label in _SHOWN if key not in left_out]
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


def _near(balanced: float | None, plain: float | None) -> bool:
    """Whether a mean over classes says no more than the mean over images."""
    return balanced is None or plain is None or abs(balanced - plain) < UNEVEN


def _member_table(results: Results) -> Table:
    kept = [name for name in ACCURACIES if results.table[name].null_count() < len(results.table)]
    columns = ("hidden_layers", "depth", "seed", "status", *kept)
    rows = [
        tuple(number(cell) if isinstance(cell, float) or cell is None else str(cell) for cell in row)
        for row in results.table.select(columns).iter_rows()
    ]
    names = tuple(name.replace("_", " ").replace("white box", "white-box") for name in columns)
    return Table("Every member", names, tuple(rows), sortable=True)


def _with_interval(estimate: Estimate) -> str:
    mean, low, high = estimate
    return number(mean) if low is None else f"{number(mean)} ({low:.3f} to {high:.3f})"
