"""The distances by which attacks moved the images that they had to turn, beside the number of those images."""

from __future__ import annotations

import polars as pl

from atras.errors import printable
from atras.results import Results

from .attack_aims import attack_aim

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


def distance_table_lines(results: Results) -> list[str]:
    """`attack_distances` of the attacks without a bound as plain text within 80 columns; nothing without them."""
    frame = attack_distances(results, unbounded=True).with_columns(aim=attack_aim())
    if not len(frame):
        return []
    lines = [
        "smallest changes found, over images classified right before that were changed",
        f"{'attack and model':<26} {'images':>15} {'median l2':>9} {'mean':>6} {'median linf':>11} {'mean':>6}",
    ]
    for row in frame.iter_rows(named=True):
        name = printable(f"{row['attack']}{row['aim']}, {row['phase']}")
        lines += [name[start : start + 80] for start in range(0, len(name), 80)] if len(name) > 26 else []
        cells = ["-" if row[figure] is None else f"{row[figure]:.3f}" for figure in FIGURES]
        images = f"{row['attacked']} of {row['n']}"
        shown = name if len(name) <= 26 else ""
        lines.append(f"{shown:<26} {images:>15} {cells[0]:>9} {cells[1]:>6} {cells[2]:>11} {cells[3]:>6}")
    if (frame.group_by("phase").agg(pl.col("attacked").n_unique())["attacked"] > 1).any():
        lines.append("with fewer images nothing was found for the rest, which may need larger changes")
    return lines
