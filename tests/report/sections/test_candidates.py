"""The section of the candidates: its headline and its tables."""

from __future__ import annotations

import pytest

from atras.analysis import best_robust, ranking
from atras.report.sections.candidates import candidates
from atras.results.results import Results
from atras.testing.fake_run import make_run


def test_the_headline_is_the_first_by_the_worst_case_and_the_table_agrees_with_the_run(full: Results) -> None:
    """One criterion throughout: ranking, export and report name the same winner."""
    means = full.candidate_means(trained_only=True)
    column = "attacked_accuracy_after_white_box"
    best = ranking(full).row(0, named=True)
    headline = f"First by worst-case robust accuracy: {best['hidden_layers']} with {best['mean']:.4f} ("
    assert " ".join(candidates(full).text).startswith(headline)
    assert best_robust(full).name == best["hidden_layers"]
    table = candidates(full).tables[0]
    assert table.columns[:5] == ("hidden layers", "robust, white-box", "depth", "parameters", "robust, static")
    shown = {row[0]: row[1].split(" ")[0] for row in table.rows}
    expected = {row["hidden_layers"]: f"{row[column]:.4f}" for row in means.iter_rows(named=True)}
    assert {name: figure for name, figure in shown.items() if figure != "-"} == expected
    assert set(shown) - set(expected) == {full.run["protocol"]["candidates"][0]}


@pytest.mark.parametrize("complete", [True, False])
def test_the_worst_case_has_a_column_only_where_there_are_several_attacks(complete: bool) -> None:
    assert ("worst case" in candidates(make_run(complete=complete)).tables[0].columns) == complete


def test_every_member_has_a_row_where_there_are_several_seeds(full: Results) -> None:
    assert [len(table.rows) for table in candidates(full).tables] == [5, 10]
    assert [len(table.rows) for table in candidates(make_run(seeds=(3,))).tables] == [5]


def test_one_seed_names_a_first_and_no_ranks() -> None:
    headline = candidates(make_run(names=("8-16", "24-192", "40", "64"), seeds=(0,))).text[0]
    assert "No ranks: one seed gives none" in headline
    assert "the test images alone" in headline


def test_candidates_that_are_not_told_apart_from_the_first_are_counted(full: Results) -> None:
    tied = ranking(full)["tied"][0]
    assert f"{len(tied)} not distinguishable from it: {', '.join(tied[:5])}" in candidates(full).text[0]
    assert "Only 2 seeds: fewer than 5" in candidates(full).text[0]
