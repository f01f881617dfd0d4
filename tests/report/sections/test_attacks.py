"""Attacks without a bound show the size of the change that they need, and no accuracy beside those that have one."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from atras.report.sections.attacks import attacks
from atras.results.results import Results


@pytest.fixture(scope="module")
def unbounded(full: Results) -> Results:
    """With DeepFool, which turned nearly everything, by 0.2 before and 0.3 after the defence."""
    size = pl.when(pl.col("phase") == "defended").then(0.3).otherwise(0.2)
    deepfool = full.metrics.filter(attack="pgd", epsilon=0.05).with_columns(
        attack=pl.lit("deepfool"), norm=pl.lit("l2"), epsilon=pl.lit(None, pl.Float64), accuracy=pl.lit(0.01),
        median_l2=size, attacked=pl.lit(800, full.metrics.schema["attacked"]),
    )  # fmt: skip
    return replace(
        full, metrics=pl.concat([full.metrics, deepfool.select(full.metrics.columns)], how="vertical_relaxed")
    )


def test_unbounded_attacks_are_shown_by_size_and_not_by_accuracy(unbounded: Results, full: Results) -> None:
    by_accuracy, by_size = attacks(unbounded).figures
    assert by_accuracy == attacks(full).figures[0]
    assert by_size.title == "Size of the change that deepfool needs"
    for row in by_size.rows:
        assert [mark.mean for mark in row.marks] == pytest.approx([0.2, 0.3])
    assert by_size.summary == "The defence makes the change that is needed larger: 0.200 before it, 0.300 after it."
    assert by_size.axis.high < 1
