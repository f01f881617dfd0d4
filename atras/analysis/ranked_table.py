"""Networks from best to worst as text: the figure that ranks them and its interval, then what there is room for."""

from __future__ import annotations

import textwrap
from typing import Any

import polars as pl

from atras.errors import printable
from atras.results import Results
from atras.rounding import decimals

from .statistics import depth_intervals, independent_images, ordered, robust_column
from .text_table import Column, columns_within, heading_lines, name_width, row_lines, width_of

_PARAMETERS, _STATUS = Column("parameters", "params"), Column("status", "status", least=8)
_INTERVAL = Column("interval", "95 %", "interval", least=11)

_HEADINGS = {
    "train_accuracy": ("train", "before"),
    "test_accuracy": ("clean", "before"),
    "attacked_accuracy_before": ("attack", "before"),
    "attacked_accuracy_before_true": ("white-", "box"),
    "worst_case_accuracy_before": ("worst", "case"),
    "adversarial_train_accuracy": ("train", ""),
    "adversarial_test_accuracy": ("clean", ""),
    "attacked_accuracy_after_white_box": ("white-", "box"),
    "attacked_accuracy_after_static": ("static", ""),
    "worst_case_accuracy_after": ("worst", "case"),
    "balanced_accuracy_after_white_box": ("white-b", "balanced"),
    "balanced_accuracy_after_worst_case": ("worst c", "balanced"),
}
_DEFENDED = (
    "attacked_accuracy_after_white_box", "attacked_accuracy_after_static", "attacked_accuracy_before", "test_accuracy",
    "adversarial_train_accuracy", "train_accuracy",
)  # fmt: skip
_UNDEFENDED = ("attacked_accuracy_before_true", "train_accuracy")


def ranked_lines(results: Results, width: int, *, rank_by: str = "accuracy") -> list[str]:
    """The networks of a run by worst case, where that was measured, else by white-box accuracy, as plain text: at
    several strengths of attack those of each under a line of its own.

    Args:
        results: a run.
        width: columns of the terminal, at least 60.
        rank_by: as in `robust_column`.

    Raises:
        InputError: as `robust_column`.
    """
    results = results.flattened
    lead = robust_column(results, rank_by)
    frame = _frame(results, lead)
    if frame.is_empty():
        return ["no network is finished yet"]
    columns = _columns(results, lead)
    failed = (frame["status"] != "trained").any()
    status = [_STATUS] if failed else []
    names = [printable(name) for name in frame["hidden_layers"]]
    first = name_width(names, width, width - width_of([*columns[:4], *status]))
    shown = [*columns_within(columns, width - first - width_of(status), 4), *status]
    lines = heading_lines("network", first, shown)
    at = ""
    for name, row in zip(names, frame.iter_rows(named=True), strict=True):
        if row["measured_at"] != at:
            at = row["measured_at"]
            lines.append(f"at {at}")
        lines += row_lines(name, first, [_cell(row, column) for column in shown], shown, width)
    return [*lines, *_notes(results, columns, shown, width)]


def depth_lines(results: Results, width: int) -> list[str]:
    """Means by depth over the members that trained, as plain text; nothing of a single depth.

    The interval is of the figure that ranks networks, for these candidates: of seeds and test images, with one seed of
    the images alone.
    """
    means = results.by_depth()
    if len(means) < 2:
        return []
    lead = robust_column(results)
    known = (*means.columns, _INTERVAL.name)
    columns = [Column("trained", "trained", least=7), *(c for c in _columns(results, lead) if c.name in known)]
    shown = columns_within(columns, width - 7, 4)
    lines = ["means by depth, over the members that trained", *heading_lines("depth", 7, shown)]
    trained = results.table.filter(pl.col("status") == "trained")
    intervals = depth_intervals(trained, lead, independent_images(results, lead), results)
    for row in means.iter_rows(named=True):
        row["trained"] = f"{row['trained']}/{row['members']}"
        ends = intervals.get(row["depth"])
        row[_INTERVAL.name] = "-".join(decimals(end, 3) for end in (ends or ())[1:] if end is not None) or None
        lines += row_lines(str(row["depth"]), 7, [_cell(row, column) for column in shown], shown, width)
    return lines


def _frame(results: Results, lead: str) -> pl.DataFrame:
    """The candidates from best to worst, with their means and the interval of the figure that ranks them."""
    ranked = ordered(results, lead).select("hidden_layers", "mean", "low", "high", "measured_at", members="trained")
    means = results.candidate_means().with_columns(pl.col("status").fill_null("trained"))
    joined = ranked.join(means, on="hidden_layers", how="left", maintain_order="left")
    known = pl.when(pl.col("members") > 0).then(pl.col("mean"))
    ends = (pl.col(end).map_elements(lambda value: decimals(value, 3), pl.String) for end in ("low", "high"))
    interval = pl.when(pl.col("members") > 0).then(pl.format("{}-{}", *ends))
    return joined.with_columns(known.alias(lead), interval=interval)


def _columns(results: Results, lead: str) -> list[Column]:
    """All columns that say something, the more important ones first: with FGSM alone the worst case is white-box."""
    others, table = _DEFENDED if results.defends else _UNDEFENDED, results.table
    filled = [name for name in others if name != lead and table[name].count()]
    filled = [name for name in filled if name != results.final.white_box or not table[name].equals(table[lead])]
    accuracies = [Column(name, *_heading(results, name)) for name in (results.final.clean, lead, *filled)]
    return [_PARAMETERS, *accuracies[:2], _INTERVAL, *accuracies[2:]]


def _heading(results: Results, name: str) -> tuple[str, str]:
    """The two lines above a column; without a defence nothing is before it."""
    above, below = _HEADINGS[name]
    return above, below if results.defends or below != "before" else ""


def _notes(results: Results, columns: list[Column], shown: list[Column], width: int) -> list[str]:
    """What the worst case is of, and which columns found no room."""
    left = [" ".join(filter(None, (c.above, c.below))).replace("- ", "-") for c in columns if c not in shown]
    attacks = results.metrics.filter(
        pl.col("attack").str.starts_with("worst("), pl.col("epoch").is_null(), split="test", phase=results.final.phase
    )["attack"].unique(maintain_order=True)
    over = "; ".join(each[len("worst(") : -1] for each in attacks) or "FGSM alone, a weak attack: add --attack"
    told = [f"worst case over {over}"] if any(column.name == results.final.worst for column in shown) else []
    told += [f"no room for: {', '.join(left)}; a wider terminal or atras show --csv table shows all"] if left else []
    return [
        row
        for line in told
        for row in textwrap.wrap(printable(line), width, subsequent_indent="  ", break_on_hyphens=False)
    ]


def _cell(row: dict[str, Any], column: Column) -> str:
    value = row[column.name]
    if value is None:
        return "-"
    if column is _PARAMETERS:
        return short_count(value)
    return decimals(value, 4) if isinstance(value, float) else printable(str(value))


def short_count(count: int) -> str:
    """At most five characters, three of them digits that count: 8170, 530k, 1.40M."""
    if count < 100_000:
        return str(count)
    size, unit = (count / 1e3, "k") if count < 999_500 else (count / 1e6, "M")
    if size >= 999.5:
        size, unit = size / 1e3, "G"
    return f"{size:#.3g}".rstrip(".") + unit
