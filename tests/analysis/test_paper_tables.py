"""The paper's tables, and the distance of a run from them."""

from __future__ import annotations

from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atras.analysis import paper_tables
from atras.analysis.paper_tables import PaperName, distance, distance_lines, paper_table, rank_correlation, trained_rows
from atras.errors import InputError
from atras.networks import PAPER_CANDIDATES
from atras.results.results import Results
from atras.results.schemas import ACCURACIES, PAPER_COLUMNS, SCHEMAS

DATASETS: tuple[PaperName, ...] = get_args(PaperName)


def run_of(rows: list[dict[str, Any]], dataset: str = "mnist") -> Results:
    """A run with these table rows; what they leave out is null."""
    schemas = {name: {column: c.dtype for column, c in columns.items()} for name, columns in SCHEMAS.items()}
    frames = {name: pl.DataFrame(schema=schema) for name, schema in schemas.items()}
    frames["table"] = pl.DataFrame(rows, schema=schemas["table"])
    run = {"protocol": {"dataset": dataset}}
    return Results(frames["table"], frames["metrics"], frames["history"], frames["timings"], run)


def row(name: str, seed: int = 0, status: str = "trained", **accuracies: float | None) -> dict[str, Any]:
    return {"hidden_layers": name, "seed": seed, "status": status, **accuracies}


def as_run(dataset: PaperName, shift: float = 0.0) -> list[dict[str, Any]]:
    """The paper's own table as rows of a run, each figure moved by a constant; dead rows say so."""
    alive = set(trained_rows(dataset)["hidden_layers"])
    return [
        row(
            figures["hidden_layers"],
            status="trained" if figures["hidden_layers"] in alive else "dead",
            **{ours: figures[theirs] + shift for theirs, ours in PAPER_COLUMNS.items()},
        )
        for figures in paper_table(dataset).iter_rows(named=True)
    ]


@pytest.mark.parametrize("dataset", DATASETS)
def test_filters_are_compared_with_the_same_rows_beside_units(dataset: PaperName) -> None:
    units, filters = as_run(dataset, 0.01), as_run(dataset, 0.02)
    for each in filters:
        each["hidden_layers"] = "-".join(f"c{width}" for width in each["hidden_layers"].split("-"))
    mixed = run_of([*units, *filters, row("c24z1-c192", train_accuracy=0.5)], dataset)
    for frame, shift in [
        (distance(mixed), 0.01),
        (distance(mixed, reading="conv"), 0.02),
        (distance(run_of(filters, dataset)), 0.02),
    ]:
        assert frame is not None
        assert frame["rows"].to_list() == [len(trained_rows(dataset))] * 6
        assert frame["mean_absolute_difference"].to_list() == pytest.approx([shift] * 6)
    titles = [line for line in distance_lines(mixed) if line.startswith("distance")]
    title = f"distance from the paper's table of {dataset}"
    assert titles == [title, f"{title}, nodes as filters"]


# Tables


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_table_has_the_papers_candidates_and_columns(dataset: PaperName) -> None:
    table = paper_table(dataset)
    assert table.columns == [*PAPER_COLUMNS, "hidden_layers"]
    assert table["hidden_layers"].to_list() == [candidate.name for candidate in PAPER_CANDIDATES]
    assert all(table[name].is_between(0.09, 1.0).all() for name in PAPER_COLUMNS)


@pytest.mark.parametrize(
    ("dataset", "sums"),
    [
        ("mnist", (35.0546, 34.104, 32.8514, 35.5201, 34.6334, 34.6182)),
        ("cifar10", (21.2801, 17.05379, 6.6811, 30.9215, 18.7888, 17.7274)),
    ],
)
def test_tables_are_the_printed_ones(dataset: PaperName, sums: tuple[float, ...]) -> None:
    # Sums of the printed columns, added up apart from this code.
    assert paper_table(dataset).select(pl.col(PAPER_COLUMNS).sum()).row(0) == pytest.approx(sums, abs=1e-9)


def test_another_data_set_has_no_table() -> None:
    with pytest.raises(
        InputError, match=r"dataset \(='svhn'\): the paper has no table of it; choose from mnist, cifar10"
    ):
        paper_table("svhn")  # type: ignore[arg-type]


def test_35_mnist_rows_trained_in_both_phases() -> None:
    dead = set(paper_table("mnist")["hidden_layers"]) - set(trained_rows("mnist")["hidden_layers"])
    assert len(trained_rows("mnist")) == 35
    assert dead == {
        "8-16-32-64-128-256-512-1024",
        "24-48-96-192-384-768",
        "40-80-160-320-640",
        "48-96-192-384-768",
        "56-112-224-448-896",
    }


def test_a_row_that_was_dead_in_one_phase_only_did_not_train_in_both() -> None:
    # 8 of the 40 sit at chance after the defence; 16-64-256-1024 did before it and recovered.
    dead = set(paper_table("cifar10")["hidden_layers"]) - set(trained_rows("cifar10")["hidden_layers"])
    assert len(dead) == 9
    assert {"16-64-256-1024", "48-192-768"} < dead


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_is_left_is_far_from_chance(dataset: PaperName) -> None:
    clean = ["train_accuracy", "test_accuracy", "adversarial_train_accuracy", "adversarial_test_accuracy"]
    assert trained_rows(dataset).select(pl.min_horizontal(pl.col(clean).min())).item() > 0.38


# Distance


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_paper_is_no_distance_from_itself(dataset: PaperName) -> None:
    found = distance(run_of(as_run(dataset), dataset))
    assert found is not None
    assert found["column"].to_list() == list(PAPER_COLUMNS)
    assert found["mean_absolute_difference"].to_list() == [0.0] * 6
    assert found["rank_correlation"].to_list() == pytest.approx([1.0] * 6)
    alive = len(trained_rows(dataset))
    assert found["rows"].to_list() == [alive] * 6
    assert found["paper_untrained"].to_list() == [40 - alive] * 6
    assert found["run_untrained"].to_list() == [0] * 6


def test_a_shift_either_way_is_the_distance() -> None:
    for shift in (0.02, -0.02):
        found = distance(run_of(as_run("mnist", shift)))
        assert found is not None
        assert found["mean_absolute_difference"].to_list() == pytest.approx([0.02] * 6)


def test_after_the_defence_the_static_column_is_compared() -> None:
    names = ["40", "48", "56", "64"]
    printed = dict(paper_table("mnist").select("hidden_layers", "attacked_accuracy_after").iter_rows())
    rows = [
        row(name, attacked_accuracy_after_static=printed[name], attacked_accuracy_after_white_box=0.5) for name in names
    ]
    found = distance(run_of(rows))
    assert found is not None
    last = found.row(5, named=True)
    assert last["column"] == "attacked_accuracy_after"
    assert last["mean_absolute_difference"] == 0.0
    assert last["rank_correlation"] == pytest.approx(1.0)


def test_figures_by_hand() -> None:
    # Printed train accuracies: 0.9982, 0.9986, 0.9984, 0.9988; ranks 1, 3, 2, 4 against ours 4, 2.5, 2.5, 1.
    rows = [row(name, train_accuracy=ours) for name, ours in (("40", 0.9), ("48", 0.8), ("56", 0.8), ("64", 0.7))]
    found = distance(run_of(rows))
    assert found is not None
    first = found.row(0, named=True)
    assert first["mean_absolute_difference"] == pytest.approx((0.0982 + 0.1986 + 0.1984 + 0.2988) / 4)
    # Covariance -4.5 over the root of 5 * 4.5.
    assert first["rank_correlation"] == pytest.approx(-4.5 / (5 * 4.5) ** 0.5)


def test_untrained_members_and_candidates_are_left_out_and_counted() -> None:
    rows = [
        row("40", 0, train_accuracy=0.9982 + 0.001),
        row("40", 1, "dead", train_accuracy=0.1126),
        row("48", 0, "dead", train_accuracy=0.1126),
        row("48", 1, "diverged"),
        row("8-16-32-64-128-256-512-1024", train_accuracy=0.9),
        row("3-5-7", train_accuracy=0.9),
    ]
    found = distance(run_of(rows))
    assert found is not None
    first = found.row(0, named=True)
    assert first["mean_absolute_difference"] == pytest.approx(0.001)
    assert (first["rows"], first["paper_untrained"], first["run_untrained"]) == (1, 1, 1)


def test_a_missing_figure_is_left_out_of_its_own_column_only() -> None:
    rows = [row(name, train_accuracy=0.9, test_accuracy=None if name == "40" else 0.8) for name in ("40", "48")]
    found = distance(run_of(rows))
    assert found is not None
    assert found["rows"].to_list() == [2, 1, 0, 0, 0, 0]


def test_without_rows_there_are_no_figures() -> None:
    found = distance(run_of([row("3-5-7", train_accuracy=0.9)]))
    assert found is not None
    assert found["mean_absolute_difference"].null_count() == found["rank_correlation"].null_count() == 6


def test_only_the_papers_data_sets_have_a_distance_unless_one_is_named() -> None:
    run = run_of(as_run("cifar10"), "/data/cifar10.npz")
    assert distance(run) is None
    assert distance_lines(run) == []
    found = distance(run, "cifar10")
    assert found is not None
    assert found["mean_absolute_difference"].sum() == 0.0
    with pytest.raises(InputError, match="the paper has no table of it"):
        distance(run, "digits")  # type: ignore[arg-type]


def test_networks_that_are_not_the_papers_have_no_distance_from_its_table() -> None:
    assert distance_lines(run_of([row("make", train_accuracy=0.9), row("8-8", train_accuracy=0.9)])) == []


# Rank correlation


def test_rank_correlation_is_unknown_for_few_or_constant_numbers() -> None:
    three = pl.Series([1.0, 2.0, 3.0])
    assert rank_correlation(three[:2], three[:2]) is None
    assert rank_correlation(three, pl.Series([1.0, 1.0, 1.0])) is None
    assert rank_correlation(pl.Series([1.0, 1.0, 1.0]), three) is None
    assert rank_correlation(three, three) == pytest.approx(1.0)


@settings(deadline=None)  # The first call imports scipy.
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_rank_correlation_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    left, right = zip(*pairs, strict=True)
    found = rank_correlation(pl.Series(left), pl.Series(right))
    if len(set(left)) == 1 or len(set(right)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-12)


# Text


def test_distance_lines_give_a_line_a_column_within_80() -> None:
    lines = distance_lines(run_of(as_run("mnist", 0.01)))
    assert max(map(len, lines)) <= 80
    assert max(map(len, distance_lines(run_of(as_run("mnist", 0.01)), width=60))) <= 60
    assert lines[:2] == [
        "distance from the paper's table of mnist",
        "35 candidates that trained in both; untrained: 5 in the paper, 0 more here",
    ]
    assert [line.split() for line in lines[3:]] == [[name, "0.0100", "1.0000"] for name in PAPER_COLUMNS]


def test_unknown_figures_are_dashes() -> None:
    lines = distance_lines(run_of([row("40", train_accuracy=0.9982)]))
    assert lines[3].split() == ["train_accuracy", "0.0000", "-"]
    assert lines[4].split() == ["test_accuracy", "-", "-"]


def test_accuracies_of_the_paper_are_a_part_of_ours() -> None:
    assert set(PAPER_COLUMNS.values()) < set(ACCURACIES)
    assert set(paper_tables._DISTANCE) == set(distance(run_of(as_run("mnist"))).columns)  # type: ignore[union-attr]
