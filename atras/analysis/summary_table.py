"""A run's table as text for people."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from atras.errors import printable
from atras.registry import name_of
from atras.results import Results

from .attack_distances import distance_table_lines
from .black_box import black_box_lines
from .network_table import network_lines
from .paper_tables import distance_lines
from .provenance import notices

WORST = "worst_case_accuracy_after"
FURTHER = "further"
"""Column of the means with the accuracy under the one further attack of a run."""

STATUS = 9
"""Width of the last column with the space before it."""


class _Column(NamedTuple):
    """Name of a column of the means, and its heading in two lines."""

    name: str
    above: str
    below: str = ""

    @property
    def width(self) -> int:
        return max(6, len(self.above), len(self.below))


_SHOWN = (
    _Column("train_accuracy", "train"),
    _Column("test_accuracy", "test"),
    _Column("attacked_accuracy_before", "attack", "before"),
    _Column("adversarial_train_accuracy", "adv", "train"),
    _Column("adversarial_test_accuracy", "adv", "test"),
    _Column("attacked_accuracy_after_white_box", "after", "whitebox"),
    _Column("attacked_accuracy_after_static", "after", "static"),
)
_DISPENSABLE = ("adversarial_train_accuracy", "train_accuracy")
"""Columns that a narrow terminal goes without, the first one first, where there is one of further attacks."""


def summary_lines(results: Results, width: int = 80) -> list[str]:
    """The table, means by depth, attacks' distances, black-box attacks and the paper's distance, as plain text.

    Args:
        results: a run's frames.
        width: columns of the terminal; anything below 80 counts as 80. A name that is too long stands on lines of its
            own above its figures.
    """
    width = max(width, 80)
    told = [row for line in notices(results) for row in textwrap.wrap(line, width)]
    if not results.defends:
        return [*told, *([""] if told else []), *network_lines(results, width), *_spaced(distance_table_lines(results))]
    further, means, depths = _with_further(results)
    left = max(20, min(width - 60, 8 + max(map(len, means["hidden_layers"]), default=0)))
    columns = _columns(further, width - 20 - STATUS)
    left = min(left, max(20, width - STATUS - _width(columns)))
    seeds = results.table["seed"].n_unique()
    lines = _heading("hidden layers", "params", left, columns)
    lines[0] += " status"
    for row in means.iter_rows(named=True):
        first = _left(printable(row["hidden_layers"]), _short(row["parameters"]), left, width)
        lines += [*first[:-1], f"{first[-1]}{_figures(row, columns)} {printable(row['status'])}"]
    if results.majority_share is not None:
        lines.append(f"baseline: the most frequent class is {results.majority_share:.4f} of the test images")
    if seeds > 1:
        lines.append(f"means over {seeds} seeds; the status is that of the worst seed")
        diverged = results.table.filter(status="diverged")["hidden_layers"].n_unique()
        if diverged:
            lines.append(f"a diverged seed has no figures: {diverged} candidates' means are over fewer seeds")
    lines += ["", "means by depth, over the members that trained", *_heading("depth", "trained", left, columns)]
    for row in depths.iter_rows(named=True):
        first = _left(str(row["depth"]), f"{row['trained']}/{row['members']}", left, width)
        lines.append(f"{first[-1]}{_figures(row, columns)}")
    for part in (distance_table_lines(results), black_box_lines(results), distance_lines(results)):
        lines += _spaced(part)
    return [*told, "", *lines] if told else lines


def _spaced(part: list[str]) -> list[str]:
    """A part of the summary behind an empty line; nothing where it is empty."""
    return ["", *part] if part else []


def _with_further(results: Results) -> tuple[_Column | None, pl.DataFrame, pl.DataFrame]:
    """The column of further attacks, None without any, and the means of candidates and depths, which have it.

    It is the one further attack of the run, where that is bounded and measured at one epsilon, or else the worst case.
    """
    means, depths = results.candidate_means(), results.by_depth()
    rows = results.metrics.filter(
        pl.col("epoch").is_null(), pl.col("attack") != "fgsm", split="test", phase="defended", mode="white-box"
    )
    single = rows.filter(~pl.col("attack").str.starts_with("worst("))
    if len(single) == len(rows):
        return None, means, depths
    told_apart = single.select("attack", "norm", "epsilon", "label_source", "target")
    if told_apart.n_unique() != 1 or single["epsilon"].null_count():
        return _Column(WORST, "worst", "case"), means, depths
    single = single.join(results.table.select("hidden_layers", "seed", "depth", "status"), on=["hidden_layers", "seed"])
    figure = pl.col("accuracy").mean().alias(FURTHER)
    of_names, of_depths = (
        rows.group_by(key).agg(figure)
        for key, rows in (("hidden_layers", single), ("depth", single.filter(status="trained")))
    )
    means = means.join(of_names, on="hidden_layers", how="left", maintain_order="left")
    depths = depths.join(of_depths, on="depth", how="left", maintain_order="left")
    return _Column(FURTHER, "after", printable(name_of(single["attack"][0]))[:13]), means, depths


def _columns(further: _Column | None, room: int) -> tuple[_Column, ...]:
    """What is shown in so much room."""
    if further is None:
        return _SHOWN
    columns = [*_SHOWN, further]
    for name in _DISPENSABLE:
        if _width(columns) > room:
            columns = [column for column in columns if column.name != name]
    return tuple(columns)


def _width(columns: Sequence[_Column]) -> int:
    return sum(1 + column.width for column in columns)


def caution_lines(results: Results, width: int = 80) -> list[str]:
    """What makes a run's figures say less than they seem to, as plain text; nothing where nothing does.

    Args:
        results: a run's frames.
        width: as in `summary_lines`.
    """
    told = [printable(str(line)) for line in results.run.get("warnings", ())]
    rows = [row for line in told for row in textwrap.wrap(line, max(width, 80), subsequent_indent="  ")]
    return ["", "cautions", *rows] if rows else []


def _heading(left: str, right: str, left_width: int, columns: Sequence[_Column]) -> list[str]:
    above, below = ("".join(f" {column[line]:>{column.width}}" for column in columns) for line in (1, 2))
    return [f"{left}{right:>{left_width - len(left)}}{above}", " " * left_width + below]


def _left(name: str, figure: str, left_width: int, width: int) -> list[str]:
    """Name and figure side by side; a name too long for that stands on lines of its own."""
    if len(name) + 1 + len(figure) <= left_width:
        return [name + figure.rjust(left_width - len(name))]
    lines = [name[start : start + width] for start in range(0, len(name), width)]
    return [*lines, figure.rjust(left_width)]


def _figures(row: dict[str, Any], columns: Sequence[_Column]) -> str:
    cells = [("-" if row[column.name] is None else f"{row[column.name]:.4f}", column.width) for column in columns]
    return "".join(f" {cell:>{width}}" for cell, width in cells)


def _short(count: int) -> str:
    """At most five characters, three of them digits that count: 8170, 530k, 1.40M."""
    if count < 100_000:
        return str(count)
    size, unit = (count / 1e3, "k") if count < 999_500 else (count / 1e6, "M")
    if size >= 999.5:
        size, unit = size / 1e3, "G"
    return f"{size:#.3g}".rstrip(".") + unit
