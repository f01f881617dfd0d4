"""The distances by which attacks moved the images that they had to turn, beside the number of those images."""

from __future__ import annotations

import textwrap

import polars as pl

from atras.errors import printable
from atras.results import Results
from atras.rounding import decimals

from .attack_aims import attack_aim
from .text_table import Column, heading_lines, name_width, row_lines, width_of

FIGURES = ("median_l2", "mean_l2", "median_linf", "mean_linf")


def attack_distances(results: Results, *, unbounded: bool = False) -> pl.DataFrame:
    """A row an attack and model: distances of adversarial test images, averaged over the members that trained.

    A member's own figure is over the images that it classifies correctly and that the attack changed: misclassified
    ones have the distance 0, and the worse a network, the more of them it has.

    Args:
        results: a run.
        unbounded: of attacks alone that look for the smallest change, whose distance is their result.

    Returns:
        Columns attack, norm, epsilon, label_source, target, phase, members (that have such images), attacked and n
        (images, summed over members), median_l2, mean_l2, median_linf, mean_linf.
    """
    trained = results.table.filter(pl.col("status") == "trained").select("hidden_layers", "seed")
    rows = results.metrics.filter(
        (pl.col("split") == "test") & (pl.col("mode") == "white-box") & pl.col("epoch").is_null(),
        pl.col("attacked").is_not_null(),
    ).join(trained, on=["hidden_layers", "seed"], how="semi", maintain_order="left")
    if unbounded:
        rows = rows.filter(pl.col("epsilon").is_null())
    keys = ["attack", "norm", "epsilon", "label_source", "target", "phase"]
    counts = [(pl.col("attacked") > 0).sum().alias("members"), pl.col("attacked", "n").sum()]
    return rows.group_by(keys, maintain_order=True).agg(*counts, pl.col(FIGURES).mean())


_COLUMNS = (
    Column("images", "images", least=15),
    Column("median_l2", "median", "l2"),
    Column("mean_l2", "mean", "l2"),
    Column("median_linf", "median", "linf"),
    Column("mean_linf", "mean", "linf"),
)


def distance_table_lines(results: Results, width: int = 80) -> list[str]:
    """`attack_distances` of the attacks without a bound as plain text; nothing without them.

    Args:
        results: a run.
        width: columns of the terminal, at least 60.
    """
    frame = attack_distances(results, unbounded=True).with_columns(aim=attack_aim())
    if not len(frame):
        return []
    title = "smallest changes found, over images classified right before that were changed"
    names = [printable(f"{row['attack']}{row['aim']}, {row['phase']}") for row in frame.iter_rows(named=True)]
    first = name_width(names, width, width - width_of(_COLUMNS))
    lines = [*textwrap.wrap(title, width, subsequent_indent="  "), *heading_lines("attack", first, _COLUMNS)]
    for name, row in zip(names, frame.iter_rows(named=True), strict=True):
        cells = ["-" if row[figure] is None else decimals(row[figure], 3) for figure in FIGURES]
        columns = dict(zip(FIGURES, cells, strict=True)) | {"images": f"{row['attacked']} of {row['n']}"}
        lines += row_lines(name, first, [columns[column.name] for column in _COLUMNS], _COLUMNS, width)
    if (frame.group_by("phase").agg(pl.col("attacked").n_unique())["attacked"] > 1).any():
        note = "with fewer images nothing was found for the rest, which may need larger changes"
        lines += textwrap.wrap(note, width, subsequent_indent="  ")
    return lines
