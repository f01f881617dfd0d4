"""The figures of a run's first networks on fresh seeds, which did not choose them, beside those by which they were."""

from __future__ import annotations

import textwrap
from typing import Any

import polars as pl

from atras.errors import printable
from atras.results import Results
from atras.rounding import decimals

from .statistics import ordered, ranking, require_alike, robust_column, seeds_note
from .text_table import Column, heading_lines, name_width, row_lines, width_of

MOST = 5
"""Most networks that are measured on fresh seeds: the first one, and of those not told apart from it the next."""

_SCHEMA = {
    "hidden_layers": pl.String, "chosen": pl.Float64, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "trained": pl.Int64,
}  # fmt: skip


def to_confirm(results: Results, rank_by: str = "accuracy") -> list[str]:
    """The names of the networks that fresh seeds are to measure, the first of the ranking first; empty without one.

    Args:
        results: a finished run.
        rank_by: as in `robust_column`.

    Raises:
        InputError: as `robust_column`, or if the run has figures at several strengths of attack.
    """
    results = results.flattened
    column = robust_column(results, rank_by)
    frame = ranking(require_alike(results, column, "confirm"), column)
    frame = frame.filter(pl.col("trained") > 0)
    if frame.is_empty():
        return []
    names: list[str] = frame["hidden_layers"].to_list()
    tied = frame["tied"][0]
    # From one seed nothing is told apart.
    others = names[1:] if tied is None else [name for name in names[1:] if name in set(tied)]
    return [names[0], *others[: MOST - 1]]


def confirmed_record(results: Results, fresh: Results, rank_by: str = "accuracy") -> dict[str, Any]:
    """What run.json keeps under `confirmed`: the seeds, the figure, and of each network its accuracy before and now.

    Args:
        results: the run that chose.
        fresh: the run of its first networks on fresh seeds.
        rank_by: what the networks were chosen by.
    """
    column = robust_column(results, rank_by)
    before = ordered(results, column).select("hidden_layers", chosen="mean")
    before = before.filter(pl.col("hidden_layers").is_in(to_confirm(results, rank_by)))
    # A fresh run that has the variants without a defence alone has their figures under a column of its own.
    now = ordered(fresh, rank_by=rank_by).select("hidden_layers", "mean", "low", "high", "trained")
    both = before.join(now, on="hidden_layers", maintain_order="left")
    return {"seeds": list(fresh.run["protocol"]["seeds"]), "column": column, "networks": both.to_dicts()}


def confirmed(results: Results) -> pl.DataFrame:
    """The networks of a run that fresh seeds measured, as it ranked them.

    Args:
        results: a run.

    Returns:
        Columns hidden_layers, chosen (the accuracy by which they were ranked), mean, low and high (on the fresh seeds,
        with its 95 % interval), trained (how many of these seeds did); no row where no fresh seeds were asked for.
    """
    kept = results.run.get("confirmed") or {}
    return pl.DataFrame(kept.get("networks", []), schema=_SCHEMA, orient="row")


def confirmed_sentence(results: Results) -> str:
    """What the first network of a run has on fresh seeds; empty where there were none.

    Args:
        results: a run.
    """
    frame = confirmed(results)
    if frame.is_empty():
        return ""
    first = frame.row(0, named=True)
    seeds = results.run["confirmed"]["seeds"]
    ends = "" if first["low"] is None else f" ({decimals(first['low'], 3)} to {decimals(first['high'], 3)})"
    change = first["mean"] - first["chosen"]
    than = "as much as" if abs(change) < 5e-5 else f"{decimals(abs(change), 4)} {'less' if change < 0 else 'more'} than"
    note = seeds_note(len(seeds))
    return (
        f"Confirmed on fresh seeds, which did not choose it: {printable(first['hidden_layers'])} has "
        f"{decimals(first['mean'], 4)}{ends}, {than} where it was chosen.{' ' + note if note else ''}"
    )


_COLUMNS = (
    Column("chosen", "where", "chosen"),
    Column("mean", "fresh", "seeds"),
    Column("ends", "95 %", "interval", 11),
)


def confirmed_lines(results: Results, width: int = 80) -> list[str]:
    """`confirmed` as plain text; nothing where no fresh seeds were asked for.

    Args:
        results: a run.
        width: columns of the terminal, at least 60.
    """
    frame = confirmed(results)
    if frame.is_empty():
        return []
    seeds = ", ".join(map(str, results.run["confirmed"]["seeds"]))
    title = f"the first and those not told apart from it, on fresh seeds ({seeds}), which did not choose them"
    names = [printable(name) for name in frame["hidden_layers"]]
    first = name_width(names, width, width - width_of(_COLUMNS))
    lines = [*textwrap.wrap(title, width, subsequent_indent="  "), *heading_lines("network", first, _COLUMNS)]
    for name, row in zip(names, frame.iter_rows(named=True), strict=True):
        ends = "-" if row["low"] is None else f"{decimals(row['low'], 3)}-{decimals(row['high'], 3)}"
        lines += row_lines(name, first, [decimals(row["chosen"], 4), decimals(row["mean"], 4), ends], _COLUMNS, width)
    return lines
