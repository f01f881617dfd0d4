"""One figure has one interval everywhere, and seeds that agree by chance make no difference certain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from atras.analysis import claims, compare, compare_depths, network_table, ordered, stated_figures, winner, worst_case
from atras.report.charts import Bars, Chart
from atras.report.sections.attack_parts import attack_parts
from atras.report.sections.clean_and_robust import clean_and_robust
from atras.report.sections.masking import masking
from atras.report.sections.population import entries
from atras.report.sections.recovery import recovery
from atras.results import Results
from atras.testing.fake_run import make_run

IMAGES = 899


@pytest.fixture(scope="module")
def run() -> Results:
    return make_run(names=("40", "64", "24-192", "64-512"), seeds=range(2), outcomes=True)


@pytest.fixture(scope="module", params=["outcomes", "counts"])
def agreeing(run: Results, request: pytest.FixtureRequest) -> Results:
    """Two seeds with the same figures, but for what float64 makes of them."""
    frames = {}
    for name in ("table", "metrics", "outcomes"):
        first = getattr(run, name).filter(seed=0)
        frames[name] = pl.concat([first, first.with_columns(seed=pl.lit(1, pl.Int64))])
    noise = 1 + 2e-16 * pl.col("seed")
    frames["table"] = frames["table"].with_columns(pl.col(pl.Float64) * noise)
    if request.param == "counts":
        frames["outcomes"] = frames["outcomes"].clear()
    return replace(run, **frames)


def ends_of(agreeing: Results) -> dict[str, tuple[float | None, float | None]]:
    """The intervals of all differences that are told of a run."""
    found = {}
    for section in (masking(agreeing), recovery(agreeing)):
        for chart in section.figures:
            assert isinstance(chart, Chart)
            found |= {
                f"{chart.name} {series.label} {point.x}": (point.y_low, point.y_high)
                for series in chart.series
                for point in series.points
                if not series.label.startswith("paper")
            }
    found |= {claim.name: (claim.low, claim.high) for claim in claims(agreeing) if claim.ours is not None}
    depths = compare_depths(agreeing)
    found |= {f"depths {a} {b}": (low, high) for a, b, low, high in depths.select(
        "depth_a", "depth_b", "low", "high").rows()}  # fmt: skip
    shifted = agreeing.table.with_columns(pl.col("worst_case_accuracy_after", "adversarial_test_accuracy") - 0.01)
    other = compare(agreeing, replace(agreeing, table=shifted)).filter(~pl.col("column").str.contains("train_"))
    found |= {f"compare {name}": (low, high) for name, low, high in other.select("column", "low", "high").rows()}
    first = winner(agreeing)
    assert first is not None
    assert first.gain is not None
    return found | {"gain": (first.gain.low, first.gain.high)}


def test_seeds_that_agree_by_chance_leave_the_doubt_of_the_images(agreeing: Results) -> None:
    found = ends_of(agreeing)
    assert len(found) > 20
    for name, (low, high) in found.items():
        if name.startswith(("smaller networks are faster", "attacks made on")):
            continue  # a correlation over networks, and a share of another figure
        # Four images are added, so that even where all agree one of 903 may differ: Agresti and Coull.
        assert low is not None, name
        assert high is not None, name
        assert high - low > 1.9 * 2 / (IMAGES + 4), name


def test_one_figure_has_one_interval_in_terminal_table_and_charts(run: Results) -> None:
    trained = pl.col("hidden_layers") != "40"
    frames = {name: getattr(run, name).filter(trained) for name in ("table", "metrics", "outcomes")}
    # The worst case that image by image is so.
    whole = worst_case(replace(run, **frames)).group_by("hidden_layers", "seed").agg(pl.col("correct").mean())
    table = frames["table"].join(whole, on=["hidden_layers", "seed"], maintain_order="left")
    frames["table"] = table.with_columns(worst_case_accuracy_after="correct").drop("correct")
    frames["metrics"] = (
        frames["metrics"]
        .join(whole.rename({"correct": "kept"}), on=["hidden_layers", "seed"], maintain_order="left")
        .with_columns(accuracy=pl.when(attack="worst", phase="defended").then("kept").otherwise("accuracy"))
        .drop("kept")
    )
    run = replace(run, **frames)
    ranked = {
        name: ends
        for name, *ends in ordered(run)
        .filter(pl.col("trained") > 0)
        .select("hidden_layers", "mean", "low", "high")
        .rows()
    }
    by_counts = ordered(replace(run, outcomes=run.outcomes.clear())).select("mean", "low", "high").rows()
    assert not {tuple(ends) for ends in ranked.values()} & set(by_counts)  # what outcomes tell is not what counts do
    shown = network_table(run).filter(pl.col("attack").str.starts_with("worst"), pl.col("accuracy").is_not_null())
    assert {name: ends for name, *ends in shown.select("hidden_layers", "accuracy", "low", "high").rows()} == {
        name: pytest.approx(ends, abs=1e-12) for name, ends in ranked.items()
    }
    points = [
        point
        for chart in clean_and_robust(run).figures
        if isinstance(chart, Chart)
        for series in chart.series
        for point in series.points
        if point.y_low is not None
    ]
    bars = [
        bar
        for chart in attack_parts(run).figures
        if isinstance(chart, Bars) and chart.name == "singles-linf-defended"
        for bar in chart.rows
    ]
    assert len(points) == 2 * len(ranked)
    assert len(bars) == len(ranked)
    for point in points:
        assert (point.y, point.y_low, point.y_high) == pytest.approx(ranked[point.name], abs=1e-12)
    for bar in bars:
        assert tuple(bar.marks[-1]) == pytest.approx(tuple(ranked[bar.name]), abs=1e-12)


def test_no_interval_leaves_what_is_possible(run: Results) -> None:
    """Seeds that are far apart leave half widths of several times the range."""
    far = 1 - 0.95 * pl.col("seed")
    table = run.table.with_columns(pl.col("^.*accuracy.*$") * far, pl.col("^recovery.*$") * far)
    metrics = run.metrics.with_columns(pl.col("accuracy") * far)
    found = ends_of(replace(run, table=table, metrics=metrics, outcomes=run.outcomes.clear()))
    assert len(found) > 20
    for name, (low, high) in found.items():
        if low is None or high is None or name.startswith("attacks made on"):
            continue  # with nothing to tell, and a share of another figure
        # A difference of recoveries is one of four accuracies.
        most = 2 if name.startswith(("compare recovery", "recovery (")) else 1
        assert -most <= low <= high <= most, name
    assert {-1.0, 1.0} <= {end for ends in found.values() for end in ends}


def test_one_seed_has_intervals_of_its_images_but_claims_none() -> None:
    one = make_run(seeds=(0,), outcomes=True)
    shown = [
        point.y_low
        for chart in recovery(one).figures
        if isinstance(chart, Chart)
        for series in chart.series
        for point in series.points
        if not series.label.startswith("paper")
    ]
    assert shown
    assert None not in shown
    about_seeds = claims(one)[:-2]  # the last two are of networks' times and of attacks
    assert {(claim.low, claim.high, claim.verdict) for claim in about_seeds} == {(None, None, "unresolved")}
    figures = [entry for entry in stated_figures(one, "mnist") if entry.where == "here"]
    assert {(entry.ours.low, entry.ours_verdict) for entry in figures if entry.ours} == {(None, "unresolved")}


def test_outcomes_are_gone_through_as_often_for_many_candidates_as_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, passes = pl.DataFrame.filter, 0

    def counted(self: pl.DataFrame, *args: Any, **kwargs: Any) -> pl.DataFrame:
        nonlocal passes
        passes += "image" in self.columns and len(self) == whole
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(pl.DataFrame, "filter", counted)
    found = []
    for names in (("64", "24-192"), ("40", "64", "24-192", "64-512", "48-96")):
        many = make_run(names=names, seeds=range(2), outcomes=True)
        whole, passes = len(many.outcomes), 0
        entries(many)
        network_table(many)
        ordered(many)
        found.append(passes)
    assert 0 < found[0] == found[1]
