"""The section of clean and robust accuracy: one against the other, and robust accuracy against size."""

from __future__ import annotations

from atras.analysis import pareto, robust_column
from atras.report.charts import Chart, Point, Series, linear, logarithmic, rounded
from atras.report.section import Section
from atras.results import Results
from atras.rounding import counted

from .depth_charts import by_depth
from .population import CLEAN_AFTER, WHITE_BOX, WORST, Entry, entries, networks_text

FRONT = "Pareto front"


def clean_and_robust(results: Results) -> Section:
    """A mark for each candidate that trained, by clean accuracy and by parameters.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title = "Clean and robust accuracy"
    rows, (key, label) = entries(results), _figure(results)
    good = tuple(row for row in rows if row.trained and row.figures[key].mean is not None)
    if not good:
        return Section("clean_and_robust", title, ("No candidate trained and was attacked.",))
    left_out = len(rows) - len(good)
    text = ["Bars are 95 % intervals; colour and shape give the depth."]
    if left_out:
        text.append(f"Not shown: {left_out} of {counted(len(rows), 'candidate')}, of which no seed trained.")
    charts = (_against_clean(good, results, key, label), _against_size(good, results, key, label))
    return Section("clean_and_robust", title, tuple(text), charts)


def _figure(results: Results) -> tuple[str, str]:
    """What candidates are ranked by: the estimate of an entry, and its name."""
    if robust_column(results) == results.final.worst:
        return WORST, "worst-case robust accuracy"
    return WHITE_BOX, "white-box robust accuracy"


def _against_clean(rows: tuple[Entry, ...], results: Results, key: str, label: str) -> Chart:
    biggest, first, cleanest = max(row.parameters for row in rows), _best(rows, key), _best(rows, CLEAN_AFTER)

    def point(row: Entry) -> Point | None:
        x, low, high = row.figures[CLEAN_AFTER]
        radius = 3.5 + 4.5 * (row.parameters / biggest) ** 0.5
        y, named = row.figures[key], row.name if row in (first, cleanest) else ""
        if x is None or y.mean is None:
            return None
        return Point(x, y.mean, y.low, y.high, low, high, row.name, radius, named)

    if first is cleanest:
        told = f"{first.name} is first in both, {rounded(first.figures[key].mean)} under attack"
    else:
        told = f"{first.name} is the most robust, {rounded(first.figures[key].mean)}, and {cleanest.name} the cleanest"
    return Chart(
        "clean-robust",
        f"Robust against clean accuracy, {networks_text(results)}",
        f"{told}; larger marks have more parameters.",
        linear("clean accuracy", _ends(rows, CLEAN_AFTER), 0, 1),
        linear(label, _ends(rows, key), 0, 1),
        by_depth(rows, point),
    )


def _best(rows: tuple[Entry, ...], key: str) -> Entry:
    return max(rows, key=lambda row: row.figures[key].mean or 0.0)


def _against_size(rows: tuple[Entry, ...], results: Results, key: str, label: str) -> Chart:
    there = {row.name: row for row in rows}
    front = [there[name] for name in pareto(results)["hidden_layers"] if name in there]

    def point(row: Entry) -> Point | None:
        mean, low, high = row.figures[key]
        named = row.name if row in front else ""
        return None if mean is None else Point(row.parameters, mean, low, high, name=row.name, label=named)

    line = tuple(Point(row.parameters, row.figures[key].mean or 0.0, name=row.name) for row in front)
    return Chart(
        "parameters-robust",
        "Robust accuracy against size",
        _front_conclusion(front, rows, key),
        logarithmic("parameters", [row.parameters for row in rows]),
        linear(label, _ends(rows, key), 0, 1),
        (*([Series(FRONT, 7, line, line=True, dashed=True)] if len(line) > 1 else []), *by_depth(rows, point)),
    )


def _front_conclusion(front: list[Entry], rows: tuple[Entry, ...], key: str) -> str:
    """What the front buys, from its smallest network to its largest."""
    if not front:
        return "No network is on the front: none is clearly better than always answering one class."
    small, large = front[0], front[-1]
    if small is large:
        return f"{small.name} is the most robust, and nothing smaller comes near: it alone is on the front."
    times = large.parameters / small.parameters
    gain = (large.figures[key].mean or 0.0) - (small.figures[key].mean or 0.0)
    return (
        f"{len(front)} of {counted(len(rows), 'network')} are on the front: from {small.name} to {large.name}, "
        f"{times:.3g} times the parameters gain {rounded(gain)}."
    )


def _ends(rows: tuple[Entry, ...], column: str) -> list[float]:
    return [end for row in rows for end in row.figures[column] if end is not None]
