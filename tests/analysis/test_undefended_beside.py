"""Networks without a defence beside defended ones: they stand as their training ends, image by image too."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from atras.analysis import (
    compare,
    compare_images,
    compare_lines,
    depth_intervals,
    independent_images,
    ranking,
    winner_sentences,
)
from atras.analysis.statistics import kept_images
from atras.report.headline import headline
from atras.results import ACCURACIES, SCHEMAS, Results
from atras.testing.fake_run import make_run, with_axis

NAMES = ("24-192", "64")
WORST = "worst_case_accuracy_after"
NONE, COPIES = "defence=none", "defence=copies"


@pytest.fixture(scope="module")
def run() -> Results:
    varied = with_axis(make_run(names=NAMES, seeds=range(2), outcomes=True), "defence", ("none", "copies"))
    frames = {}
    for name in SCHEMAS:
        frame: pl.DataFrame = getattr(varied, name)
        undefended = pl.col("variant") == NONE
        if "defence" in frame.columns:
            frame = frame.with_columns(defence=pl.when(undefended).then(pl.lit("none")).otherwise("defence"))
        if "phase" in frame.columns and "variant" in frame.columns:
            frame = frame.filter(~undefended | (pl.col("phase") != "defended"))
        if name == "table":
            after = [column for column in ACCURACIES if "after" in column or column.startswith("adversarial")]
            frame = frame.with_columns(pl.when(~undefended).then(column).alias(column) for column in after)
        frames[name] = frame
    return replace(varied, **frames | {"table": with_worst_cases(frames["table"], frames["outcomes"])})


def with_worst_cases(table: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """The table with the worst cases that the outcomes tell."""
    member = ["hidden_layers", "variant", "seed"]
    images = outcomes.group_by(*member, "phase", "image").agg((pl.col("correct") | ~pl.col("counts")).all())
    for phase, column in (("trained", "worst_case_accuracy_before"), ("defended", WORST)):
        own = images.filter(phase=phase).group_by(member).agg(pl.col("correct").mean().alias(column))
        table = table.drop(column).join(own, on=member, how="left", maintain_order="left").select(table.columns)
    return table


def test_ranks_are_paired_by_images_and_one_figure_has_one_interval(run: Results) -> None:
    flat = run.flattened
    names = flat.run["protocol"]["candidates"]
    right = kept_images(flat, WORST, names, [0, 1])
    assert right is not None
    assert right.shape == (4, 2, 899)
    alone = run.of_variant(NONE)
    before = "worst_case_accuracy_before"
    told = depth_intervals(alone.table, before, independent_images(alone, before), alone)
    row = ranking(run).filter(hidden_layers=f"64 {NONE}").row(0, named=True)
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(tuple(told[1]))


def test_the_choice_is_said_to_be_made_on_other_images_only_where_it_is(run: Results) -> None:
    silent = replace(run, outcomes=run.outcomes.clear())
    for one, words in ((run, "chosen on other seeds and images"), (silent, "chosen on other seeds")):
        assert f"{words}, what is first has" in " ".join(winner_sentences(one))
        assert words in [fact.label for fact in headline(one).facts]


def test_a_defence_is_compared_with_what_training_alone_leaves(run: Results) -> None:
    a, b = run.of_variant(NONE), run.of_variant(COPIES)
    found = {row["column"]: row for row in compare(a, b).to_dicts()}
    for column, before in (("adversarial_test_accuracy", "test_accuracy"), (WORST, "worst_case_accuracy_before")):
        row = found[column]
        assert row["members"] == 4
        assert row["mean_a"] == pytest.approx(a.table[before].mean())
        assert row["mean_b"] == pytest.approx(b.table[column].mean())
    assert found[WORST]["difference"] > 0.05
    assert {row["column"]: row["difference"] for row in compare(b, a).to_dicts()}[WORST] == pytest.approx(
        -found[WORST]["difference"]
    )
    assert (compare_images(a, b)["only_a"] > 0).all()  # the undefended network loses more
    text = " ".join(" ".join(compare_lines(a, b)).split())
    assert "A has no defence: its networks stand beside defended ones as their training ends." in text
    assert "lost by the networks that each run ends with" in text
    assert "has no defence" not in " ".join(compare_lines(b, b))


def test_balanced_figures_are_said_not_to_be_paired(run: Results) -> None:
    one = run.of_variant(COPIES)
    balanced = replace(one, table=one.table.with_columns(balanced_accuracy_after_worst_case=pl.col(WORST)))
    said = "Balanced figures are not paired image by image"
    assert said in " ".join(" ".join(compare_lines(balanced, balanced)).split())
    silent = replace(balanced, outcomes=balanced.outcomes.clear())
    assert said not in " ".join(" ".join(compare_lines(silent, silent)).split())
    assert said not in " ".join(compare_lines(one, one))


def test_the_best_of_those_that_may_be_first_says_of_how_many() -> None:
    """Of five one never trains."""
    assert "As the best of 4 of 5 (1 did not train, or see nothing of the images) it is" in " ".join(
        winner_sentences(make_run())
    )
    assert "the best of 4 of 5 (1 did not" in " ".join(winner_sentences(make_run(seeds=(0,))))
    assert "As the best of 2 it is" in " ".join(winner_sentences(make_run(names=NAMES)))
