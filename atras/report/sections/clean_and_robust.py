"""The section of clean and robust accuracy: one against the other, and robust accuracy against size."""

from __future__ import annotations

from atras.report.charts import Chart, Point, linear, logarithmic, number
from atras.report.section import Section
from atras.results import Results

from .depth_charts import by_depth
from .population import CLEAN_AFTER, WHITE_BOX, Entry, counted, entries, networks_text, robust_text


def clean_and_robust(results: Results) -> Section:
    """A mark for each candidate that trained, by clean accuracy and by parameters.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title = "Clean and robust accuracy"
    rows = entries(results)
    good = tuple(row for row in rows if row.trained and row.figures[WHITE_BOX].mean is not None)
    if not good:
        return Section("clean_and_robust", title, ("No candidate trained and was attacked.",))
    left_out = len(rows) - len(good)
    text = (f"Not shown: {left_out} of {counted(len(rows), 'candidate')}, of which no seed trained.",)
    charts = (_against_clean(good, results), _against_size(good, robust_text(results)))
    return Section("clean_and_robust", title, text if left_out else (), charts)


def _against_clean(rows: tuple[Entry, ...], results: Results) -> Chart:
    biggest, robust = max(row.parameters for row in rows), robust_text(results)

    def point(row: Entry) -> Point | None:
        x, low, high = row.figures[CLEAN_AFTER]
        radius = 3.5 + 4.5 * (row.parameters / biggest) ** 0.5
        y = row.figures[WHITE_BOX]
        return None if x is None or y.mean is None else Point(x, y.mean, y.low, y.high, low, high, row.name, radius)

    return Chart(
        "clean-robust",
        f"Robust against clean accuracy, {networks_text(results)}",
        f"{_range_summary(rows, robust)} Colour and shape give the depth, size the parameters; bars are 95 % "
        "intervals.",
        linear("clean accuracy", _ends(rows, CLEAN_AFTER), 0, 1),
        linear(robust, _ends(rows, WHITE_BOX), 0, 1),
        by_depth(rows, point),
    )


def _against_size(rows: tuple[Entry, ...], robust: str) -> Chart:
    def point(row: Entry) -> Point | None:
        mean, low, high = row.figures[WHITE_BOX]
        return None if mean is None else Point(row.parameters, mean, low, high, name=row.name)

    return Chart(
        "parameters-robust",
        "Robust accuracy against size",
        f"{_range_summary(rows, robust)} Parameters are on a logarithmic scale; bars are 95 % intervals.",
        logarithmic("parameters", [row.parameters for row in rows]),
        linear(robust, _ends(rows, WHITE_BOX), 0, 1),
        by_depth(rows, point),
    )


def _ends(rows: tuple[Entry, ...], column: str) -> list[float]:
    return [end for row in rows for end in row.figures[column] if end is not None]


def _range_summary(rows: tuple[Entry, ...], robust: str) -> str:
    ordered = sorted(rows, key=lambda row: row.figures[WHITE_BOX].mean or 0.0)
    low, high = ordered[0], ordered[-1]
    return (
        f"{counted(len(rows), 'candidate')}; {robust} from {number(low.figures[WHITE_BOX].mean)} "
        f"({low.name}) to {number(high.figures[WHITE_BOX].mean)} ({high.name})."
    )
