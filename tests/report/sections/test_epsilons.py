"""Accuracy by epsilon: a panel a norm with all its attacks, and which rows are curves."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from atras.report.sections.attacks import attacks
from atras.report.sections.epsilons import epsilons
from atras.results import Results


def test_every_norm_has_a_panel_of_its_attacks_with_intervals(full: Results) -> None:
    l2 = full.metrics.filter(attack="pgd").with_columns(attack=pl.lit("apgd(norm=l2)"), norm=pl.lit("l2"))
    charts = {chart.name: chart for chart in epsilons(replace(full, metrics=pl.concat([full.metrics, l2]))).figures}
    assert [name for name in charts if name.startswith("epsilons-l")] == [
        "epsilons-linf-trained", "epsilons-linf-defended", "epsilons-l2-trained", "epsilons-l2-defended",
    ]  # fmt: skip
    assert [line.label for line in charts["epsilons-linf-trained"].series] == ["fgsm", "pgd"]
    (line,) = charts["epsilons-l2-defended"].series
    assert line.points == charts["epsilons-linf-defended"].series[1].points
    means = full.metrics.filter(attack="pgd", phase="defended").group_by("epsilon").agg(pl.col("accuracy").mean())
    assert [point.x for point in line.points] == [0.0, *sorted(means["epsilon"])]
    expected = dict(means.iter_rows())
    for point in line.points[1:]:
        assert point.y == pytest.approx(expected[point.x])
        assert point.y_low is not None
        assert point.y_high is not None
        assert point.y_low < point.y < point.y_high
    assert line.label == "apgd"
    assert charts["epsilons-l2-defended"].title.endswith("in L2 under apgd, after the defence")
    assert charts["epsilons-l2-defended"].x.label == "epsilon: L2, pixels in [0, 1]"


def test_a_runs_own_curves_are_no_attacks_of_their_own(full: Results) -> None:
    protocol = full.run["protocol"] | {"epsilons": [0.01, 0.02, 0.1, 0.2]}
    (chart,) = attacks(replace(full, run=full.run | {"protocol": protocol})).figures
    assert [row.name for row in chart.rows] == ["fgsm", "pgd", "worst"]
    (named,) = attacks(full).figures  # given one by one, as attacks with an epsilon of their own
    assert "pgd, epsilon 0.1" in [row.name for row in named.rows]


def test_lines_by_depth_have_intervals(full: Results) -> None:
    charts = {chart.name: chart for chart in epsilons(full).figures}
    points = [point for line in charts["epsilons-pgd-defended"].series for point in line.points]
    assert points
    assert all(point.y_low is not None and point.y_low < point.y < point.y_high for point in points)


def test_attacks_that_aim_elsewhere_have_lines_of_their_own(full: Results) -> None:
    aimed = full.metrics.filter(attack="pgd").with_columns(
        accuracy=pl.lit(1.0), target=pl.lit("random"), label_source=pl.lit(None, pl.String)
    )
    alone = {chart.name: chart for chart in epsilons(full).figures}
    both = {chart.name: chart for chart in epsilons(replace(full, metrics=pl.concat([full.metrics, aimed]))).figures}
    assert both["epsilons-pgd-defended"] == alone["epsilons-pgd-defended"]
    panel = both["epsilons-linf-defended"].series
    assert [line.label for line in panel] == ["fgsm", "pgd", "pgd, towards random"]
    assert panel[1].points == alone["epsilons-linf-defended"].series[1].points
    assert {point.y for point in panel[2].points if point.x} == {1.0}
    assert "epsilons-pgd-towards-random-defended" in both
