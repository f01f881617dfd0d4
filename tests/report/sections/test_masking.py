"""The section of masked gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest

from atras.report.charts import Chart
from atras.report.sections.masking import masking
from atras.results import Results
from atras.testing.fake_run import make_run


@cache
def made(seeds: int) -> Results:
    return make_run(names=("40", "64", "24-192", "64-512", "8-16-32-64"), seeds=range(seeds), outcomes=True)


def without(results: Results, *attacks: str) -> Results:
    return replace(results, metrics=results.metrics.filter(~pl.col("attack").is_in(attacks)))


def chart_of(results: Results) -> Chart:
    (chart,) = masking(results).figures
    assert isinstance(chart, Chart)
    return chart


def test_the_gap_is_that_of_the_defended_networks_by_depth() -> None:
    run = made(3)
    chart = chart_of(run)
    assert chart.title == "pgd minus autoattack at L-infinity 0.05, defended networks"
    own = run.metrics.filter(phase="defended", split="test", epsilon=0.05)
    for point in chart.series[0].points:
        depth = int(chart.x.names[round(point.x)])
        means = {
            attack: own.filter(pl.col("hidden_layers").str.count_matches("-") == depth - 1, attack=attack)["accuracy"]
            for attack in ("pgd", "autoattack")
        }
        assert point.y == pytest.approx(means["pgd"].mean() - means["autoattack"].mean())  # type: ignore[operator]
        assert point.y_low is not None
        assert point.y_low < point.y


def test_the_conclusion_names_the_depths_whose_interval_lies_above_the_bound() -> None:
    run = made(3)
    auto, deep = pl.col("attack") == "autoattack", pl.col("hidden_layers") == "8-16-32-64"
    little = 0.001 * pl.col("seed")
    run = replace(run, outcomes=run.outcomes.clear())
    figures = run.metrics.with_columns(
        n=pl.lit(10**6),  # so many images that seeds decide
        accuracy=pl.when(auto & deep).then(0.4 + little).when(auto).then(0.59 + little).otherwise(0.6),
    )
    told = masking(replace(run, metrics=figures)).text[-1]
    assert told == (
        "pgd against autoattack at L-infinity 0.05: 4 layers: gradients are masked; 1 layer, 2 layers: no sign of it. "
        "Widest gap: 8-16-32-64 with 0.1990."
    )
    even = figures.with_columns(accuracy=0.6 + pl.when(auto).then(little).otherwise(0.0))
    told = masking(replace(run, metrics=even)).text[-1]
    assert told.endswith("1 layer, 2 layers, 4 layers: no sign of it. No candidate has a gap.")


@pytest.mark.parametrize(("missing", "names"), [
    ((), "pgd minus autoattack"),
    (("pgd",), "fgsm minus autoattack"),
    (("autoattack",), "pgd minus the worst case"),
    (("pgd", "autoattack"), "fgsm minus the worst case"),
])  # fmt: skip
def test_the_strongest_that_was_run_are_compared(missing: tuple[str, ...], names: str) -> None:
    assert chart_of(without(made(3), *missing)).title.startswith(f"{names} at L-infinity 0.05")


def test_a_single_attack_by_gradients_stands_in_for_pgd_before_fgsm() -> None:
    run = without(made(3), "pgd")
    other = run.metrics.filter(attack="fgsm", epsilon=0.05)
    blind, apgd = (other.with_columns(attack=pl.lit(name)) for name in ("square", "apgd(loss=dlr)"))
    metrics = pl.concat([run.metrics, blind, apgd])
    assert chart_of(replace(run, metrics=metrics)).title.startswith("apgd(loss=dlr) minus autoattack")


def test_only_attacks_of_one_norm_and_epsilon_are_compared() -> None:
    run = without(made(3), "worst")
    auto = pl.col("attack") == "autoattack"
    elsewhere = run.metrics.with_columns(epsilon=pl.when(auto).then(0.3).otherwise("epsilon"))
    in_l2 = run.metrics.with_columns(norm=pl.when(auto).then(pl.lit("l2")).otherwise("norm"))
    for metrics in (elsewhere, in_l2):
        section = masking(replace(run, metrics=metrics))
        assert not section.figures
        assert "--attack pgd --attack autoattack" in section.text[0]


def test_a_single_network_has_the_interval_of_its_images() -> None:
    run = made(1)
    point = chart_of(run).series[0].points[-1]  # the only network of four layers
    own = run.outcomes.filter(hidden_layers="8-16-32-64", phase="defended")
    pgd, auto = (own.filter(attack=attack).sort("image")["correct"].to_numpy() for attack in ("pgd", "autoattack"))
    # Images on which both agree say nothing; one on which they differ is added to four more images (Agresti and Coull).
    changed = pgd.astype(float) - auto
    error = np.sqrt((changed.var(ddof=1) + 1 / (len(changed) + 4)) / (len(changed) + 4)) * 1.963  # Student's t, 898
    assert (point.y_low, point.y_high) == pytest.approx((point.y - error, point.y + error), rel=1e-3)
    left_out = chart_of(replace(run, outcomes=run.outcomes.clear())).series[0].points[-1]
    assert left_out.y_low is not None
    assert left_out.y_low < point.y_low  # counts alone do not pair the images


def test_a_single_step_is_no_verdict() -> None:
    run = without(made(3), "pgd")
    auto = pl.col("attack") == "autoattack"
    figures = run.metrics.with_columns(accuracy=pl.when(auto).then(0.4).otherwise(0.6))
    told = masking(replace(run, metrics=figures)).text[-1]
    assert told.startswith("fgsm against autoattack")
    assert "gradients are masked, or one step is too few, which --attack pgd would tell." in told
