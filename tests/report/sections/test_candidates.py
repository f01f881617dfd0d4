"""The section of the candidates: its headline and its tables."""

from __future__ import annotations

import polars as pl
import pytest

from atras.report.sections.candidates import candidates
from atras.report.sections.population import STATIC, WHITE_BOX
from atras.results.results import Results
from atras.testing.fake_run import make_run


def test_the_headline_is_the_white_box_figure_and_the_table_agrees_with_the_run(full: Results) -> None:
    means = full.candidate_means(trained_only=True)
    column = "attacked_accuracy_after_white_box"
    best = means.sort(column, descending=True).row(0, named=True)
    headline = f"Highest white-box robust accuracy: {best['hidden_layers']} with {best[column]:.4f} ("
    assert " ".join(candidates(full).text).startswith(headline)
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


@pytest.mark.parametrize(
    ("accuracies", "sentence"),
    [
        ((0.8, 0.5, 0.5), ""),
        ((0.8, 0.79, 0.5), " The interval of 1 other overlaps its own."),
        ((0.8, 0.79, 0.78), " The intervals of 2 others overlap its own."),
    ],
)
def test_candidates_within_the_interval_of_the_best_are_counted(accuracies: tuple[float, ...], sentence: str) -> None:
    run = make_run(names=("8-16", "24-192", "40", "64"), seeds=(0,))
    figures = pl.Series([0.1, *accuracies])
    changed = run.table.with_columns(figures.alias(WHITE_BOX), figures.alias(STATIC))
    headline = candidates(Results(changed, run.metrics, run.history, run.timings, run.run)).text[0]
    assert headline.partition(").")[2] == sentence
