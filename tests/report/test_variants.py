"""A run with axes: one report, in which its variants are compared by depth and none is averaged with another."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from atras.report.charts import Estimate
from atras.report.contents import contents
from atras.report.markdown import markdown
from atras.report.page import page
from atras.report.sections.variants import conclusion, variants
from atras.results.results import Results
from atras.testing.fake_run import make_run, with_axis

RATES = (0.001, 0.01)
BETTER = 0.1
"""By what the second variant is more robust."""


@pytest.fixture(scope="module")
def varied() -> Results:
    """Two learning rates, with the second of which everything is more robust."""
    run = with_axis(make_run(names=("24-192", "40", "64", "64-512"), seeds=range(3)), "learning_rate", RATES)
    more = pl.when(learning_rate=RATES[1]).then(BETTER).otherwise(0.0)
    return replace(run, table=run.table.with_columns(pl.col("worst_case_accuracy_after") + more))


def test_variants_are_compared_by_depth_with_intervals(varied: Results) -> None:
    found = contents([varied])
    assert found.comparison is not None
    robust, clean = found.comparison.figures
    slow, fast = robust.series
    assert (slow.label, fast.label) == ("0.001", "0.01")
    assert [point.y for point in fast.points] == pytest.approx([point.y + BETTER for point in slow.points])
    assert all(point.y_low < point.y < point.y_high for line in (slow, fast) for point in line.points)
    assert clean.title == "Clean accuracy by depth and variant"
    assert robust.summary.startswith("1 layer: 0.01 is highest, ")
    (table,) = found.comparison.tables
    assert [row[:3] for row in table.rows][:2] == [("0.001", "2 layers", "3 of 6"), ("0.001", "1 layer", "6 of 6")]


def test_the_headline_names_the_winners_variant_and_each_variant_has_its_own_part(varied: Results) -> None:
    found = contents([varied])
    assert found.overall is not None
    assert " learning_rate=0.01, one of " in found.overall.title
    assert found.names == ("0.001", "0.01")
    assert all("learning_rate" not in first.title for first in found.headlines)
    html = page(found)
    assert html.index(found.overall.title) < html.index("Variants compared") < html.index('id="run1"')
    assert f"## {found.overall.title}".replace("_", r"\_") in markdown(found)


def test_defences_that_begin_anew_are_told_from_those_that_go_on(varied: Results) -> None:
    names = [f"learning_rate={rate}" for rate in RATES]
    defences = {"copies": "0.001", "trades": "0.01"}
    parts = {
        name: replace(one, run=one.run | {"protocol": one.run["protocol"] | {"defence": defence}})
        for name, one, defence in zip(names, map(varied.of_variant, names), defences, strict=True)
    }
    said = "the defence goes on from trained weights in 0.001, and begins with the initial ones in 0.01."
    assert said in " ".join(variants(varied, parts).text)
    assert "trained equally long" not in " ".join(variants(varied, dict.fromkeys(names, parts[names[0]])).text)


def test_a_variant_has_its_own_cautions(varied: Results) -> None:
    slow, fast = ("dead: 40 (seed 0, learning_rate=0.001)", "dead: 40 (seed 0, learning_rate=0.01, defended)")
    shortened, general = f"{slow} and 2 more", "the file is sorted by class"
    told = [slow, fast, shortened, general]

    def groups(*rates: float) -> dict[str, object]:
        return {"groups": [{"members": [["40", 0, [["learning_rate", rate]]] for rate in rates]}]}

    run = replace(varied, run=varied.run | {"warnings": told, "plan": groups(0.001)}, transfer=varied.transfer.clear())
    of_fast = run.of_variant("learning_rate=0.01").run["warnings"]
    assert of_fast == [fast, general]
    assert run.of_variant("learning_rate=0.001").run["warnings"] == [slow, shortened, general]
    both = replace(run, run=run.run | {"plan": groups(0.001, 0.01)})
    assert both.of_variant("learning_rate=0.01").run["warnings"] == [fast, shortened, general]


def test_beside_another_run_each_variant_stands_by_itself(varied: Results) -> None:
    found = contents([varied, make_run(seeds=(0,))])
    assert found.names == ("1. digits: 0.001", "1. digits: 0.01", "2. digits")


def test_the_report_ranks_within_each_strength_of_attack() -> None:
    weak = with_axis(make_run(names=("24-192", "40"), seeds=range(2)), "epsilon", (0.05, 0.1))
    half = pl.when(epsilon=0.1).then(0.5).otherwise(1.0)
    weak = replace(weak, table=weak.table.with_columns(pl.col("worst_case_accuracy_after") * half))
    found = contents([weak])
    assert found.overall is not None
    assert found.overall.title == "Most robust at each strength of attack"
    assert [fact.label for fact in found.overall.facts] == [
        f"worst-case robust accuracy, epsilon={value}" for value in (0.05, 0.1)
    ]
    assert "figures at different ones are not compared" in found.overall.text[0]
    assert found.comparison is not None
    robust, clean = (figure.summary for figure in found.comparison.figures)
    assert "highest" not in robust
    assert "1 layer: 0.05 has 0." in robust
    assert "highest" in clean  # which no attack decides
    two = {"a": {1: Estimate(0.5, 0.45, 0.55)}, "b": {1: Estimate(0.3, 0.25, 0.35)}, "c": {1: Estimate(0.9)}}
    told = conclusion(two, {"a": "epsilon=0.2", "b": "epsilon=0.2", "c": "epsilon=0.0"})
    assert told == "1 layer: at epsilon=0.2 a is highest, 0.500, above the next, c has 0.900."


def test_the_conclusion_says_where_the_highest_is_not_sure() -> None:
    sure = conclusion({"a": {1: Estimate(0.5, 0.45, 0.55)}, "b": {1: Estimate(0.3, 0.25, 0.35)}})
    assert sure == "1 layer: a is highest, 0.500, above the next."
    unsure = conclusion({"a": {1: Estimate(0.5, 0.3, 0.7)}, "b": {1: Estimate(0.4, 0.2, 0.6)}})
    assert unsure == "1 layer: a is highest, 0.500, its interval overlapping the next."
