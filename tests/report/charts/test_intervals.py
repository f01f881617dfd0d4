"""Estimates and their intervals."""

from __future__ import annotations

import polars as pl
import pytest

from atras.analysis import accuracy_interval
from atras.report.charts import intervals
from atras.results.frames import wilson


def test_one_seed_has_wilsons_interval_and_several_that_of_seeds_and_images() -> None:
    assert intervals.estimate([0.5, None], 100) == (0.5, *wilson(50, 100))
    several = intervals.estimate([0.5, 0.7, 0.6], 100)
    assert several == accuracy_interval([0.5, 0.7, 0.6], 100)
    assert several.low is not None
    assert several.high is not None
    assert several.low < 0.5  # Student's t over three seeds goes beyond them
    assert several.high > 0.7
    assert intervals.estimate([None], 100) == (None, None, None)
    assert intervals.estimate([0.5], None) == (0.5, None, None)


def test_a_group_of_one_seed_has_the_interval_of_its_images_alone() -> None:
    rows = pl.DataFrame({"hidden_layers": ["8", "16"], "seed": [0, 0], "gain": [0.4, 0.6]})
    mean, low, high = intervals.group_estimate(rows, "gain", 100)
    assert mean == 0.5
    assert low is not None
    assert high is not None
    assert high - low == pytest.approx(2 * 1.984 * 0.5 / 104**0.5, rel=1e-3)
    assert intervals.group_estimate(rows, "gain") == (0.5, None, None)
    assert intervals.group_estimate(rows.clear(), "gain") == (None, None, None)
