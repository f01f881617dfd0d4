"""Estimates and their intervals."""

from __future__ import annotations

from atras.report.charts import intervals
from atras.results.frames import wilson


def test_one_seed_has_wilsons_interval_and_several_the_bootstraps() -> None:
    assert intervals.estimate([0.5, None], 100) == (0.5, *wilson(50, 100))
    several = intervals.estimate([0.5, 0.7, 0.6], 100)
    assert several == intervals.bootstrap_mean([0.5, 0.7, 0.6])
    assert several.low is not None
    assert several.high is not None
    assert 0.5 <= several.low < 0.6 < several.high <= 0.7
    assert intervals.estimate([None], 100) == (None, None, None)
    assert intervals.estimate([0.5], None) == (0.5, None, None)
