"""The candidates and members of a run as the sections show them: estimates over seeds, and their final test metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

import polars as pl

from atras.analysis import column_terms, independent_images, metric_terms
from atras.report.charts import Estimate, group_estimate
from atras.results import Results

T = TypeVar("T")

WHITE_BOX = "attacked_accuracy_after_white_box"
STATIC = "attacked_accuracy_after_static"
BEFORE = "attacked_accuracy_before_true"
CLEAN_BEFORE = "test_accuracy"
CLEAN_AFTER = "adversarial_test_accuracy"
WORST = "worst_case_accuracy_after"
BALANCED = "balanced_accuracy_after_white_box"
_TEXTS = {"trained": "before the defence", "defended": "after the defence"}
RANK = ("trained", "dead", "diverged")
"""Statuses of members, the worst last."""


@dataclass(frozen=True)
class Entry:
    """A candidate: its estimates over the seeds that trained, or over all where none did.

    Args:
        name: its hidden layers.
        depth, parameters: its size.
        status: that of its worst seed.
        trained, seeds: how many seeds trained, and how many there are.
        figures: estimate of each accuracy and recovery, by column of the table; without a defence those after it are of
            the networks as they are, in the worst case over attacks.
    """

    name: str
    depth: int
    parameters: int
    status: str
    trained: int
    seeds: int
    figures: dict[str, Estimate]


def phase_texts(results: Results) -> dict[str, str]:
    """The phases of a run in words.

    Args:
        results: the run.

    Returns:
        By phase, in order; without a defence there is one.
    """
    return _TEXTS if results.defends else {results.final.phase: "without a defence"}


def networks_text(results: Results) -> str:
    """The networks that a run ends with, in words.

    Args:
        results: the run.

    Returns:
        Such as `defended networks`.
    """
    return "defended networks" if results.defends else "networks without a defence"


def robust_text(results: Results) -> str:
    """The robust accuracy that a run's candidates are compared by, in words.

    Args:
        results: the run.

    Returns:
        `white-box robust accuracy`, or without a defence the worst case over attacks.
    """
    return "white-box robust accuracy" if results.defends else "worst-case accuracy"


def once_per_run(compute: Callable[[Results], T]) -> Callable[[Results], T]:
    """A function of a run that computes its value once, and keeps it for as long as somebody keeps the run.

    Args:
        compute: its value must not hold the run itself, nor be changed by who gets it.

    Returns:
        The function.
    """
    values: WeakKeyDictionary[Results, T] = WeakKeyDictionary()

    @wraps(compute)
    def look_up(results: Results) -> T:
        if results not in values:
            values[results] = compute(results)
        return values[results]

    return look_up


@once_per_run
def entries(results: Results) -> tuple[Entry, ...]:
    """Every candidate of a run.

    Args:
        results: the run.

    Returns:
        The candidates in the order of the table.
    """
    n, even = images(results), independent_images(results, BALANCED)
    parts = results.table.group_by("hidden_layers", maintain_order=True)
    return tuple(_entry(results, rows, n, even or n) for _, rows in parts)


def images(results: Results) -> int | None:
    """Number of test images on which every accuracy of the table is measured.

    Args:
        results: the run.

    Returns:
        The number; None for a run that does not tell.
    """
    counts = results.metrics.filter(pl.col("split") == "test")["n"]
    return results.run.get("data", {}).get("test_size") or (int(str(counts.max())) if len(counts) else None)


def _entry(results: Results, rows: pl.DataFrame, n: int | None, even: int | None) -> Entry:
    """A candidate, whose accuracies are over n images, and balanced ones as uncertain as over `even`."""
    first, final = rows.row(0, named=True), results.final
    statuses = rows["status"].to_list()
    good = rows.filter(pl.col("status") == "trained")
    columns = (WHITE_BOX, STATIC, BEFORE, CLEAN_BEFORE, CLEAN_AFTER, WORST, BALANCED)
    sizes = dict.fromkeys((*columns, "recovery_white_box", "recovery_static"), n) | {BALANCED: even}
    chosen = good if len(good) else rows
    # Without a defence there is one network to attack, and FGSM alone would flatter it.
    robust = WHITE_BOX if final.phase == "defended" else final.worst
    of_final = {CLEAN_AFTER: final.clean, WHITE_BOX: robust, WORST: final.worst}
    return Entry(
        first["hidden_layers"],
        first["depth"],
        first["parameters"],
        max(statuses, key=RANK.index),
        len(good),
        len(rows),
        {name: column_estimate(results, of_final.get(name, name), chosen, size) for name, size in sizes.items()},
    )


def column_estimate(results: Results, column: str, rows: pl.DataFrame, n: int | None) -> Estimate:
    """Mean of an accuracy or recovery over members, with the interval that it has everywhere.

    Args:
        results: the run.
        column: of its table.
        rows: those of the table that are meant; those without a figure are left out.
        n: test images behind each.

    Returns:
        The estimate; None without a figure.
    """
    known = rows.drop_nulls(column)
    return group_estimate(known, column, column_terms(results, column, known) if len(known) else (), n)


def metric_estimate(results: Results, rows: pl.DataFrame) -> Estimate:
    """Mean accuracy over rows of metrics that differ in their members alone, with the interval it has everywhere.

    Args:
        results: the run.
        rows: final figures on test images under one attack; those without a figure are left out.

    Returns:
        The estimate; None without a figure.
    """
    known = rows.drop_nulls("accuracy")
    if known.is_empty():
        return Estimate(None)
    return group_estimate(known, "accuracy", metric_terms(results, known), int(known["n"][0]))


def trained_members(results: Results) -> pl.DataFrame:
    """The members of a run that trained.

    Args:
        results: the run.

    Returns:
        Columns hidden_layers, seed, depth, parameters.
    """
    return results.table.filter(pl.col("status") == "trained").select("hidden_layers", "seed", "depth", "parameters")


@once_per_run
def last_test_metrics(results: Results) -> pl.DataFrame:
    """The final test metrics of the members that trained, each with its depth, without static ones.

    Args:
        results: the run.

    Returns:
        Rows of the frame metrics with depth and parameters. Of an attack that was made at the predicted and at the
        true label, those at the true label.
    """
    frame = results.metrics.filter(
        (pl.col("split") == "test") & pl.col("epoch").is_null() & (pl.col("mode") != "static")
    )
    at_true_label = frame.filter(pl.col("label_source") == "true")["attack"].unique().to_list()
    same = pl.col("attack").is_in(at_true_label) & (pl.col("label_source") == "predicted")
    frame = frame.filter(same.is_null() | ~same)
    return frame.join(trained_members(results), on=["hidden_layers", "seed"], how="inner", maintain_order="left")


def evenly_chosen(names: Sequence[str], most: int) -> list[str]:
    """Names at even distances, the first and the last among them.

    Args:
        names: any number.
        most: how many to take, at least two.

    Returns:
        All names where they are not more.
    """
    if len(names) <= most:
        return list(names)
    return [names[index * (len(names) - 1) // (most - 1)] for index in range(most)]
