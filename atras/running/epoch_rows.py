"""Epochs of members as callbacks are told of them, from rows of the frames."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from atras.evaluation import COMPARED, Row
from atras.loggers import EpochRow
from atras.training import STAGES

OWN = (
    "mean_loss", "running_accuracy", "validation_robust_accuracy",
    *(f"train_accuracy_under_{name}" for name in COMPARED),
)  # fmt: skip
"""Columns of `history` that are figures."""


def epoch_rows(history: Iterable[Row], metrics: Iterable[Row]) -> list[EpochRow]:
    """Epochs as callbacks are told of them.

    Args:
        history: rows of that frame.
        metrics: rows of that frame, of which clean ones after an epoch count: those under attack are in `history`.
    """
    measured: dict[tuple[object, ...], dict[str, float]] = {}
    for row in metrics:
        if row["epoch"] is not None and row["attack"] == "none":
            figures = measured.setdefault(_key(row, str(row["phase"])), {})
            figures[f"{row['split']}_accuracy"] = int(str(row["correct"])) / int(str(row["n"]))
    rows = []
    for row in history:
        own: Any = {name: row[name] for name in OWN}
        figures = {name: value for name, value in own.items() if value is not None and math.isfinite(value)}
        figures |= measured.get(_key(row, "trained" if row["phase"] == STAGES[0] else "defended"), {})
        who: Any = {name: row[name] for name in ("hidden_layers", "variant", "seed", "phase", "epoch", "steps")}
        rows.append(EpochRow(**who, figures=figures))
    return rows


def _key(row: Row, phase: str) -> tuple[object, ...]:
    return row["hidden_layers"], row["variant"], row["seed"], phase, row["epoch"]
