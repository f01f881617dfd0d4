"""Epochs of members as callbacks are told of them, from rows of the frames."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from atras.evaluation import Row
from atras.loggers import EpochRow
from atras.training import STAGES


def epoch_rows(history: Iterable[Row], metrics: Iterable[Row]) -> list[EpochRow]:
    """Epochs as callbacks are told of them.

    Args:
        history: rows of that frame.
        metrics: rows of that frame; those without an epoch are passed over.
    """
    measured: dict[tuple[object, ...], dict[str, float]] = {}
    for row in metrics:
        if row["epoch"] is not None:
            under = "" if row["attack"] == "none" else f"_under_{row['attack']}"
            figures = measured.setdefault(_key(row, str(row["phase"])), {})
            figures[f"{row['split']}_accuracy{under}"] = int(str(row["correct"])) / int(str(row["n"]))
    rows = []
    for row in history:
        own: Any = {name: row[name] for name in ("mean_loss", "running_accuracy", "validation_robust_accuracy")}
        figures = {name: value for name, value in own.items() if value is not None and math.isfinite(value)}
        figures |= measured.get(_key(row, "trained" if row["phase"] == STAGES[0] else "defended"), {})
        who: Any = {name: row[name] for name in ("hidden_layers", "variant", "seed", "phase", "epoch", "steps")}
        rows.append(EpochRow(**who, figures=figures))
    return rows


def _key(row: Row, phase: str) -> tuple[object, ...]:
    return row["hidden_layers"], row["variant"], row["seed"], phase, row["epoch"]
