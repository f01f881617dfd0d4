"""The Pareto front of parameters against robust accuracy as text."""

from __future__ import annotations

import textwrap

from atras.errors import printable
from atras.results import Results
from atras.rounding import decimals

from .ranked_table import short_count
from .statistics import pareto
from .text_table import Column, heading_lines, name_width, row_lines, width_of

_FRONT = (
    Column("parameters", "params"),
    Column("mean", "robust"),
    Column("interval", "95 %", "interval", least=11),
    Column("tied", "tied"),
)


def pareto_lines(results: Results, rank_by: str = "accuracy", width: int = 80) -> list[str]:
    """The Pareto front of a run as plain text.

    Args:
        results: a run.
        rank_by: `accuracy`, or `balanced` for its mean over classes.
        width: columns of the terminal, at least 60.
    """
    front = pareto(results, rank_by=rank_by)
    if not len(front):
        return ["Pareto front: empty, as no candidate trained"]
    figure = "robust accuracy" if rank_by == "accuracy" else "balanced robust accuracy"
    names = [printable(name) for name in front["hidden_layers"]]
    first = name_width(names, width, width - width_of(_FRONT))
    told = f"Pareto front: parameters against {figure}; tied: how many others each is not told apart from"
    lines = [*textwrap.wrap(told, width, subsequent_indent="  "), *heading_lines("network", first, _FRONT)]
    at = ""
    for name, row in zip(names, front.iter_rows(named=True), strict=True):
        if row["measured_at"] != at:
            at = row["measured_at"]
            lines.append(f"at {at}")
        tied = "-" if row["tied"] is None else str(len(row["tied"]))
        ends = "-" if row["low"] is None else f"{decimals(row['low'], 3)}-{decimals(row['high'], 3)}"
        cells = [short_count(row["parameters"]), decimals(row["mean"], 4), ends, tied]
        lines += row_lines(name, first, cells, _FRONT, width)
    return lines
