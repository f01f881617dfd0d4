"""Nothing computed has changed: tables from before the packages, against those of now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import atras

REFERENCE = Path(__file__).parent / "reference"
NAMES = {"attacked_accuracy_after_adaptive": "attacked_accuracy_after_white_box"}
IMAGES = 898
"""Fewest images that an accuracy of the digits is over: half of 1,797."""

TWO_SEEDS = 0.0277
"""Largest mean difference of a column between two seeds, docs/performance.md, "bf16 against fp32"."""

has_mnist = pytest.mark.skipif("ATRAS_DATA" not in os.environ, reason="ATRAS_DATA names no folder with MNIST")


def reference(name: str) -> pl.DataFrame:
    table = pl.read_csv(REFERENCE / f"{name}.csv")
    return table.rename(NAMES).drop("recovery_adaptive")


def differences(name: str, protocol: atras.Protocol, engine: str) -> dict[str, pl.Series]:
    """Of each accuracy, candidate by candidate: now less then; what is no accuracy is equal."""
    before = reference(name)
    now = atras.run(protocol, atras.Execution(engine=engine)).table.select(before.columns)
    accuracies = [column for column in before.columns if "accuracy" in column]
    same = [column for column in before.columns if column not in (*accuracies, "recovery_static")]
    assert now.select(same).equals(before.select(same), null_equal=True)
    return {column: now[column] - before[column] for column in accuracies}


THREE = tuple(map(atras.Candidate.parse, ("40", "24,192", "8,32,128,512")))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("loop64", {"candidates": THREE, "epochs": 4, "adversarial_epochs": 4}),
        pytest.param("loop64full", {}, marks=pytest.mark.slow),
    ],
)
def test_float64_gives_the_same_counts_up_to_one_image(name: str, options: dict[str, Any]) -> None:
    # Libraries may sum in another order: one image may then change sides, no more.
    for column, difference in differences(name, atras.Protocol(precision="fp64", **options), "loop").items():
        assert difference.abs().max() <= 1.01 / IMAGES, column  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "engine", "options"),
    [
        ("digits", "auto", {}),
        ("stack", "stack", {}),
        pytest.param("mnist", "auto", {"dataset": "mnist", "candidates": THREE}, marks=has_mnist),
    ],
)
def test_faster_precisions_give_the_same_means(name: str, engine: str, options: dict[str, Any]) -> None:
    for column, difference in differences(name, atras.Protocol(**options), engine).items():
        assert abs(difference.mean()) <= TWO_SEEDS, column  # type: ignore[arg-type, operator]
