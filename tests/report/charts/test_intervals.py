"""Means with their intervals, as the report shows them."""

from __future__ import annotations

import polars as pl
import pytest

from atras.analysis import Term
from atras.analysis.statistics import Mean, binomial_part, sample_mean
from atras.report.charts import intervals
from atras.results import wilson


def rows(*values: float | None) -> pl.DataFrame:
    schema = {"hidden_layers": pl.String, "seed": pl.Int64, "figure": pl.Float64}
    return pl.DataFrame([("8", seed, value) for seed, value in enumerate(values)], schema=schema, orient="row")


def test_one_seed_has_wilsons_interval_and_several_that_of_seeds_and_images() -> None:
    one = intervals.group_estimate(rows(0.5, None), "figure", [Term(1, 0.5, None)], 100)
    assert one == (0.5, *wilson(50, 100))
    several = intervals.group_estimate(rows(0.5, 0.7, 0.6), "figure", [Term(1, 0.6, None)], 100)
    seeds = sample_mean([0.5, 0.7, 0.6])
    assert several == pytest.approx(Mean(0.6, (*seeds.parts, binomial_part(0.6, 100))).interval())


def test_without_a_share_of_images_one_figure_has_no_interval() -> None:
    assert intervals.group_estimate(rows(None), "figure", [], 100) == (None, None, None)
    assert intervals.group_estimate(rows(0.5), "figure") == (0.5, None, None)


def test_several_candidates_of_one_seed_have_the_interval_of_their_images_alone() -> None:
    both = rows(0.4, 0.6).with_columns(hidden_layers=pl.Series(["8", "16"]), seed=pl.lit(0))
    mean, low, high = intervals.group_estimate(both, "figure", [Term(1, 0.5, None)], 100)
    assert mean == 0.5
    assert low is not None
    assert high is not None
    assert 0.3 < low < 0.42
    assert 0.58 < high < 0.7
