"""Rows, and results of them, made up for tests of what is written, read and shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from atras.results.results import Results
from atras.results.schemas import ACCURACIES, SCHEMAS, dtypes
from atras.results.writer import Writer
from atras.testing.fake_run import UNMEASURED

NAMES = ("8-16-32-64-128-256-512-1024", "24-192", "40")


FILES = {"run.json", "table.csv", "table.parquet", "metrics.parquet", "history.parquet", "timings.parquet"}


@dataclass
class Rows:
    table: list[dict[str, object]] = field(default_factory=list)
    metrics: list[dict[str, object]] = field(default_factory=list)
    history: list[dict[str, object]] = field(default_factory=list)
    timings: list[dict[str, object]] = field(default_factory=list)
    transfer: list[dict[str, object]] = field(default_factory=list)
    examples: list[dict[str, object]] = field(default_factory=list)
    outcomes: list[dict[str, object]] = field(default_factory=list)


def run_info(
    names: tuple[str, ...] = NAMES, seeds: tuple[int, ...] = (0, 1), dataset: str = "digits"
) -> dict[str, Any]:
    protocol = {"dataset": dataset, "candidates": list(names), "seeds": list(seeds), "epsilon": 0.05}
    return {"protocol": protocol, "protocol_hash": "0123456789abcdef", "version": "0.1.0", "plan": {"groups": []}}


def table_row(name: str, seed: int = 0, accuracy: float | None = 0.9, **changes: Any) -> dict[str, object]:
    row: dict[str, object] = {
        "dataset": "digits",
        "hidden_layers": name,
        "variant": "",
        "depth": name.count("-") + 1,
        "parameters": 1000,
        "seed": seed,
        "defence": "copies",
        "status": "trained",
        "majority_share": 0.25,
        **dict.fromkeys(ACCURACIES, accuracy),
        "recovery_static": -0.25,
        "recovery_white_box": 0.0,
    }
    return row | changes


def metrics_row(name: str, seed: int = 0, n: int = 100, correct: int | None = 90) -> dict[str, object]:
    return {
        "dataset": "digits",
        "hidden_layers": name,
        "variant": "",
        "seed": seed,
        "phase": "trained",
        "epoch": None,
        "split": "test",
        "attack": "none",
        "norm": None,
        "epsilon": 0,
        "label_source": None,
        "target": None,
        "mode": "clean",
        "n": n,
        "correct": correct,
        "balanced_accuracy": None,
        "majority_share": None,
        "zero_gradient_fraction": None,
        "nan_gradients": None,
        **dict.fromkeys(("attacked", "mean_linf", "median_linf", "mean_l2", "median_l2")),
        "zero_gradient_images": None,
        "unfinished_images": None,
        "blindly_turned_images": None,
        "saturated_images": None,
        "source": None,
        "defence": "copies",
        "backend": "loop/reference",
        "precision": "fp32",
        "version": "0.1.0",
        "protocol_hash": "0123456789abcdef",
    }


def history_row(name: str, seed: int = 0) -> dict[str, object]:
    where: dict[str, object] = {
        "dataset": "digits",
        "hidden_layers": name,
        "variant": "",
        "seed": seed,
        "phase": "train",
    }
    return where | UNMEASURED | {"epoch": 1, "steps": 7, "mean_loss": 0.5, "running_accuracy": 0.8}


def rows_of(*members: tuple[str, int]) -> Rows:
    return Rows(
        [table_row(*member, accuracy=0.5 + 0.01 * index) for index, member in enumerate(sorted(members))],
        [metrics_row(*member) for member in members],
        [history_row(*member) for member in members],
        [{"group": 0, "phase": "train", "members": len(members), "seconds": 1.5, "steps": 7}],
    )


def results_of(rows: list[dict[str, object]], dataset: str = "digits") -> Results:
    names = tuple(dict.fromkeys(str(row["hidden_layers"]) for row in rows))
    seeds = tuple(dict.fromkeys(int(str(row["seed"])) for row in rows))
    writer = Writer(None, run_info(names, seeds, dataset))
    writer.append(Rows(table=rows))
    return writer.finish({})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def seeded() -> Results:
    """One candidate that always trained, one that died once, one that diverged once, one that never trained."""
    return results_of(
        [
            table_row("40", 0, 0.8),
            table_row("40", 1, 0.9),
            table_row("48", 0, 0.6),
            table_row("48", 1, 0.1, status="dead"),
            table_row("8-16", 0, None, status="diverged"),
            table_row("8-16", 1, 0.7),
            table_row("8-16-32", 0, None, status="diverged"),
            table_row("8-16-32", 1, 0.1, status="dead"),
        ]
    )


ROBUST = "attacked_accuracy_after_white_box"
"""The accuracy that `robust_row` gives."""


def robust_row(
    name: str, robust: float | None, seed: int = 0, status: str = "trained", parameters: int = 0
) -> dict[str, Any]:
    """A table row of a candidate's robust accuracy alone."""
    return {
        "hidden_layers": name, "variant": "", "depth": name.count("-") + 1,
        "parameters": parameters or sum(map(int, name.split("-"))), "seed": seed, "status": status, ROBUST: robust,
    }  # fmt: skip


def robust_run(rows: list[dict[str, Any]], images: int = 0) -> Results:
    """A run with these table rows, and where there are images a metrics row that counts them."""
    frames = {name: pl.DataFrame(schema=dtypes(name)) for name in SCHEMAS}
    frames["table"] = pl.DataFrame(rows, schema=dtypes("table"))
    frames["metrics"] = pl.DataFrame([{"split": "test", "n": images}] if images else [], schema=dtypes("metrics"))
    return Results(**frames, run={"protocol": {"dataset": "digits"}})
