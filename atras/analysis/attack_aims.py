"""What tells attacks of one spelling apart: the frames have label and target in columns of their own."""

from __future__ import annotations

import polars as pl


def attack_aim() -> pl.Expr:
    """What follows the spelling of an attack where it is not at the true label, by `label_source` and `target`.

    Returns:
        An expression of `, towards class:3`, `, predicted label`, or nothing.
    """
    towards = pl.when(pl.col("target") != "none").then(pl.format(", towards {}", "target"))
    return towards.when(pl.col("label_source") == "predicted").then(pl.lit(", predicted label")).otherwise(pl.lit(""))
