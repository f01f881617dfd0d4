"""The section of the candidates: its headline and its tables."""

from __future__ import annotations

import polars as pl
import pytest

from atras.analysis import best_robust, ranking
from atras.report.sections.candidates import candidates
from atras.results.results import Results
from atras.testing.fake_run import make_run


def test_the_table_begins_with_the_first_by_the_worst_case_and_agrees_with_the_ranking(full: Results) -> None:
    """One criterion throughout: ranking, export and report name the same winner."""
    ranked, table = ranking(full), candidates(full).tables[0]
    assert table.columns == (
        "rank set", "network", "clean", "worst case", "white-box", "static", "parameters", "depth", "status",
    )  # fmt: skip
    assert (table.head, table.falling) == (1, "worst case")
    assert [row[1] for row in table.rows] == ranked["hidden_layers"].to_list()
    assert table.rows[0][1] == best_robust(full).name
    first = ranked.row(0, named=True)
    assert table.rows[0][3] == f"{first['mean']:.3f}\n{first['low']:.3f} to {first['high']:.3f}"
    assert table.rows[0][0] == f"{first['rank_low']} to {first['rank_high']}"
    dead = table.rows[-1]
    assert (dead[1], dead[3], dead[-1]) == (full.run["protocol"]["candidates"][0], "-", "dead\n2 of 2 seeds")


def test_a_seed_that_did_not_train_counts_as_it_does_in_the_ranking(full: Results) -> None:
    name = ranking(full)["hidden_layers"][0]
    died = (pl.col("hidden_layers") == name) & (pl.col("seed") == 0)
    status = pl.when(died).then(pl.lit("dead")).otherwise("status").alias("status")
    run = Results(full.table.with_columns(status), full.metrics, full.history, full.timings, full.run)
    (row,) = [row for row in candidates(run).tables[0].rows if row[1] == name]
    assert row[3].startswith(f"{ranking(run).filter(hidden_layers=name)['mean'][0]:.3f}\n")
    assert row[-1] == "dead\n1 of 2 seeds"


@pytest.mark.parametrize("complete", [True, False])
def test_the_worst_case_has_a_column_only_where_there_are_several_attacks(complete: bool) -> None:
    assert ("worst case" in candidates(make_run(complete=complete)).tables[0].columns) == complete


def test_every_member_has_a_row_where_there_are_several_seeds(full: Results) -> None:
    assert [len(table.rows) for table in candidates(full).tables] == [5, 10]
    assert [len(table.rows) for table in candidates(make_run(seeds=(3,))).tables] == [5]


def test_one_seed_gives_no_ranks() -> None:
    section = candidates(make_run(names=("8-16", "24-192", "40", "64"), seeds=(0,)))
    assert {row[0] for row in section.tables[0].rows} == {"-"}
    assert "One seed gives no ranks." in section.text[-1]
