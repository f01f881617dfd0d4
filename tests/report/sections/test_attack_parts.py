"""The section of what each attack took."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import polars as pl
import pytest

from atras.networks import PAPER_CANDIDATES
from atras.report.charts import Bars
from atras.report.sections.attack_parts import attack_parts
from atras.report.sections.bounds import norm_text
from atras.results import Results
from atras.testing.fake_run import make_run

NAMES = {2: ("24-192", "40"), 40: tuple(candidate.name for candidate in PAPER_CANDIDATES)}


@cache
def made(count: int) -> Results:
    return make_run(names=NAMES[count], seeds=(0, 1), outcomes=True)


@cache
def charts(count: int) -> dict[str, Bars]:
    figures = attack_parts(made(count)).figures
    assert all(isinstance(figure, Bars) for figure in figures)
    return {figure.name: figure for figure in figures if isinstance(figure, Bars)}


@pytest.mark.parametrize("count", [2, 40])
@pytest.mark.parametrize("phase", ["trained", "defended"])
def test_what_the_parts_took_and_what_is_left_make_the_clean_accuracy(count: int, phase: str) -> None:
    chart = charts(count)[f"parts-autoattack-linf-{phase}"]
    assert chart.parts == ("left", *(f"taken by {part}" for part in ("square", "fab-t", "apgd-t", "apgd")))
    assert len(chart.rows) == (2 if count == 2 else 39)  # the first of many never trains
    metrics = made(count).metrics.filter(pl.col("epsilon").is_in([0.0, 0.05]), phase=phase, split="test")
    means = {
        row[:2]: row[2] for row in metrics.group_by("hidden_layers", "attack").agg(pl.col("accuracy").mean()).rows()
    }
    for row in chart.rows:
        assert row.parts[0] == pytest.approx(means[row.name, "autoattack"])
        assert sum(row.parts) == pytest.approx(means[row.name, "none"])
        assert row.parts[4] > row.parts[3] > row.parts[2] > row.parts[1] > 0
    order = [(int(row.group.split()[0]), -row.parts[0]) for row in chart.rows]
    assert order == sorted(order)


def test_single_attacks_stand_in_the_order_of_their_strength() -> None:
    chart = charts(40)["singles-linf-defended"]
    assert chart.marks == ("fgsm", "pgd", "autoattack", "worst case")
    means = [sum(row.marks[place].mean or 0.0 for row in chart.rows) for place in range(3)]
    assert means == sorted(means, reverse=True)
    assert "not in sequence" in attack_parts(made(40)).text[-1]


def test_one_epsilon_a_norm_is_shown() -> None:
    run = made(2)
    l2 = run.metrics.filter(pl.col("attack").is_in(["pgd", "autoattack"]), epsilon=0.05).with_columns(norm=pl.lit("l2"))
    far, near = (l2.with_columns(epsilon=pl.lit(epsilon)) for epsilon in (2.0, 1.0))
    metrics = pl.concat([run.metrics, far.filter(attack="pgd"), near])
    found = attack_parts(replace(run, metrics=metrics)).figures
    assert [figure.title for figure in found if "l2" in figure.name and "singles" in figure.name] == [
        f"From the weakest attack to the strongest at L2 1, {networks} networks"
        for networks in ("undefended", "defended")
    ]
    assert {figure.title for figure in found if "singles-linf" in figure.name} == {
        f"From the weakest attack to the strongest at L-infinity 0.05, {networks} networks"
        for networks in ("undefended", "defended")
    }


def test_outcomes_that_were_left_out_are_told_of() -> None:
    run = made(2)
    section = attack_parts(replace(run, outcomes=run.outcomes.clear()))
    assert "outcomes image by image were left out" in section.text[0]
    assert "--outcomes all" in section.text[0]
    assert {figure.name for figure in section.figures} == {"singles-linf-trained", "singles-linf-defended"}
    alone = attack_parts(make_run(complete=False))
    assert not alone.figures
    assert "--attack autoattack" in alone.text[0]


def test_an_attack_that_is_not_known_here_is_shown_by_its_figures() -> None:
    run = made(2)
    foreign = pl.col("attack").replace("autoattack", "elsewhere(steps=3)")
    section = attack_parts(replace(run, metrics=run.metrics.with_columns(foreign)))
    assert [figure.name for figure in section.figures] == ["singles-linf-trained", "singles-linf-defended"]
    assert "elsewhere(steps=3)" in section.figures[0].table.columns


def test_an_attack_alone_in_its_norm_or_at_its_epsilon_is_shown_too() -> None:
    run = made(2)
    auto = pl.col("attack") == "autoattack"
    for norm, epsilon in (("l2", 1.0), ("linf", 0.3)):
        elsewhere = [pl.when(auto).then(pl.lit(norm)).otherwise("norm").alias("norm"),
                     pl.when(auto).then(epsilon).otherwise("epsilon").alias("epsilon")]  # fmt: skip
        metrics = run.metrics.filter(~auto | (pl.col("epsilon") == 0.05)).with_columns(elsewhere)
        section = attack_parts(replace(run, metrics=metrics, outcomes=run.outcomes.with_columns(elsewhere)))
        titles = [figure.title for figure in section.figures]
        assert titles[:2] == [
            f"autoattack at {norm_text(norm)} {epsilon:g}, {one} networks" for one in ("undefended", "defended")
        ]
        assert len(titles) == 4
