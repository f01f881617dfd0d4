"""The paper's table, and how far a reading of it is from it: plain Python, for a machine without polars."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TABLES = Path(__file__).resolve().parents[2] / "atras" / "analysis" / "tables"
COLUMNS = (
    "train_accuracy", "test_accuracy", "attacked_accuracy_before",
    "adversarial_train_accuracy", "adversarial_test_accuracy", "attacked_accuracy_after",
)  # fmt: skip
BEFORE, AFTER = (0, 1), (3, 4)
"""The clean accuracies of a phase among `COLUMNS`."""
SHARES = {"mnist": (0.1126, 0.1142, 0.1100, 0.1024), "cifar10": (0.1038, 0.1040, 0.0982, 0.1008, 0.1014, 0.1024)}
"""Of single classes in the first 5,000 images: what a network scores that predicts one class (docs/protocol.md)."""

Accuracies = tuple[float, ...]


def paper_rows(dataset: str) -> dict[str, Accuracies]:
    """By hidden layers, such as `24-192`, the paper's six accuracies."""
    with (TABLES / f"{dataset}.csv").open() as file:
        return {row["hidden_layers"]: tuple(float(row[name]) for name in COLUMNS) for row in csv.DictReader(file)}


def dead(accuracies: Accuracies, phase: tuple[int, int], dataset: str) -> bool:
    """Whether both clean accuracies of a phase in the paper are one class's share."""
    return all(accuracies[at] in SHARES[dataset] for at in phase)


def trained(dataset: str) -> set[str]:
    """The paper's rows that trained in both phases."""
    rows = paper_rows(dataset)
    return {name for name, own in rows.items() if not (dead(own, BEFORE, dataset) or dead(own, AFTER, dataset))}


def accuracies_of(row: Mapping[str, Any]) -> Accuracies | None:
    """Of a row of results; None where the network diverged."""
    values = tuple(row[name] for name in COLUMNS)
    return None if None in values else values


def distances(rows: Iterable[Mapping[str, Any]], dataset: str, *, whole: bool = False) -> list[float] | None:
    """Mean absolute difference from the paper, column by column.

    Args:
        rows: of one reading, epsilon and seed.
        dataset: whose table.
        whole: over all rows; else over those that trained in both phases in the paper, whatever they do here. A network
            that diverged counts as one that is never right, so that nothing gets nearer by diverging.

    Returns:
        One a column; None where there is no row to compare.
    """
    paper, alive = paper_rows(dataset), trained(dataset)
    gaps = []
    for row in rows:
        own, name = accuracies_of(row) or (0.0,) * len(COLUMNS), row["hidden_layers"]
        if name in (paper if whole else alive):
            gaps.append([abs(ours - theirs) for ours, theirs in zip(own, paper[name], strict=True)])
    return [sum(column) / len(gaps) for column in zip(*gaps, strict=True)] if gaps else None
