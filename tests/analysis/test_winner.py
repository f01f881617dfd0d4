"""The winner comes with its clean accuracy, its gain, its equals, and with what is missing to believe it."""

from __future__ import annotations

import polars as pl
import pytest

from atras.analysis import lacks, ranking, winner, winner_sentences
from atras.results.results import Results
from atras.testing.fake_run import make_run


def changed(results: Results, **columns: pl.Expr) -> Results:
    return Results(
        results.table.with_columns(**columns), results.metrics, results.history, results.timings, results.run
    )


def test_the_winner_is_the_first_of_the_ranking_with_its_other_figures() -> None:
    run = make_run(seeds=range(5))
    run = changed(run, worst_case_accuracy_before=pl.col("worst_case_accuracy_after") - 0.25)
    first, best = winner(run), ranking(run).row(0, named=True)
    assert first is not None
    assert (first.name, first.robust.mean, list(first.tied or ())) == (
        best["hidden_layers"],
        best["mean"],
        best["tied"],
    )
    clean = run.table.filter(hidden_layers=first.name)["adversarial_test_accuracy"].mean()
    assert first.clean.mean == pytest.approx(clean)
    assert first.clean.low < first.clean.mean < first.clean.high  # type: ignore[operator]
    assert first.gain is not None
    assert first.gain.mean == pytest.approx(0.25)


def test_a_whole_run_under_several_attacks_with_five_seeds_lacks_nothing() -> None:
    assert lacks(make_run(seeds=range(5))) == []


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (make_run(seeds=range(3)), "Only 3 seeds: fewer than 5"),
        (make_run(seeds=(0,)), "One seed"),
        (make_run(seeds=range(5), complete=False), "FGSM alone: one step leaves more than stronger attacks would"),
        (changed(make_run(seeds=range(5)), majority_share=pl.lit(0.99)), "At chance level: no network is clearly"),
        (
            changed(make_run(seeds=range(5)), worst_case_accuracy_after=pl.lit(0.09)),
            "At chance level under attack: always answering the most frequent class has 0.100",
        ),
    ],
)
def test_what_a_run_lacks_is_said(run: Results, said: str) -> None:
    (line,) = lacks(run)
    assert line.startswith(said)


def test_an_unfinished_run_lacks_the_rest_and_one_without_members_has_no_winner() -> None:
    run = make_run(seeds=range(5))
    part = Results(run.table[:20], run.metrics, run.history, run.timings, {**run.run, "status": "interrupted"})
    assert lacks(part)[0] == "Not finished: 5 of 25 members are missing."
    last = Results(run.table[:24], run.metrics, run.history, run.timings, part.run)
    assert lacks(last)[0] == "Not finished: 1 of 25 members is missing."
    none = Results(run.table[:0], run.metrics[:0], run.history, run.timings, {**run.run, "status": "interrupted"})
    assert winner(none) is None
    assert lacks(none) == ["Not finished: 25 of 25 members are missing."]


def test_an_interval_wider_than_the_ranks_is_explained_beside_it() -> None:
    run = make_run(seeds=range(2))
    first = ranking(run)["hidden_layers"][0]
    own, seed = pl.col("hidden_layers") == first, pl.col("seed")
    one = pl.col("hidden_layers") == ranking(run)["hidden_layers"][1]
    even = pl.when(one).then(0.41 + 0.002 * seed).otherwise(0.12 + 0.002 * seed)
    wide = changed(run, worst_case_accuracy_after=pl.when(own).then(0.42 + 0.09 * seed).otherwise(even))
    found = winner(wide)
    assert found is not None
    assert found.robust.low == 0.0
    assert found.tied is not None
    assert found.within == 2  # both that trained besides and are told apart
    told = " ".join(winner_sentences(wide))
    assert "Its interval is by its own 2 seeds alone, and 2 networks are told apart from it within that" in told
    narrow = changed(run, worst_case_accuracy_after=pl.when(own).then(0.42 + 0.002 * seed).otherwise(even))
    assert "Its interval" not in " ".join(winner_sentences(narrow))
