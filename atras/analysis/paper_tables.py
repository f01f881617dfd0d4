"""The paper's own figures, and how far a run is from them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from atras.errors import InputError
from atras.results import PAPER_COLUMNS, Results
from atras.rounding import counted, decimals

PaperName = Literal["mnist", "cifar10"]
PAPER_NAMES: tuple[PaperName, ...] = get_args(PaperName)

Reading = Literal["dense", "conv"]
"""What the paper's nodes are taken for: units of dense layers, or filters of convolutions with pools (`c24-c192`)."""
READINGS: tuple[Reading, ...] = get_args(Reading)

_FILTERS = r"^c\d+(-c\d+)*$"

_ONE_CLASS_ACCURACIES = {
    "mnist": (0.1126, 0.1142, 0.1100, 0.1024),
    "cifar10": (0.1038, 0.1040, 0.0982, 0.1008, 0.1014, 0.1024),
}
"""Shares of single classes in the first 5,000 training and test images. A network that predicts one class scores its
share; docs/protocol.md tells how the tables give them away."""


LARGE = 4
"""Hidden layers from which on the paper's text is read to call a network larger."""


def paper_table(dataset: PaperName) -> pl.DataFrame:
    """The paper's table, as printed.

    Args:
        dataset: `mnist` or `cifar10`.

    Returns:
        40 rows: six accuracies (those of `schemas.PAPER_COLUMNS`) and hidden_layers.

    Raises:
        InputError: for any other data set.

    Source: ATRAS, Table I (MNIST) and Table II (CIFAR-10).
    """
    if dataset not in PAPER_NAMES:
        raise InputError(f"dataset (={dataset!r}): the paper has no table of it; choose from {', '.join(PAPER_NAMES)}")
    path = Path(__file__).with_name("tables") / f"{dataset}.csv"
    return pl.read_csv(path.read_bytes(), schema_overrides={"hidden_layers": pl.String})


def trained_rows(dataset: PaperName) -> pl.DataFrame:
    """The rows of the paper's table whose network trained in both phases.

    A row did not train if, in either phase, both clean accuracies are the share of one class.

    Raises:
        InputError: if the paper has no table of the data set.
    """
    dead = one_class(dataset).select(pl.any_horizontal("before", "after")).to_series()
    return paper_table(dataset).filter(~dead)


def one_class(dataset: PaperName) -> pl.DataFrame:
    """Which rows of the paper's table predict one class: both clean accuracies of a phase are the share of one.

    Returns:
        40 rows, in the table's order: hidden_layers, before and after (of the defence).

    Raises:
        InputError: if the paper has no table of the data set.
    """
    table = paper_table(dataset)
    share = pl.col(PAPER_COLUMNS).is_in(_ONE_CLASS_ACCURACIES[dataset])
    before = pl.all_horizontal("train_accuracy", "test_accuracy").alias("before")
    after = pl.all_horizontal("adversarial_train_accuracy", "adversarial_test_accuracy").alias("after")
    return table.with_columns(share).select("hidden_layers", before, after)


def distance(results: Results, dataset: PaperName | None = None, reading: Reading | None = None) -> pl.DataFrame | None:
    """The distance of a run from the paper's table, column by column.

    Compared are the candidates that trained in both phases in the paper and here; here a candidate's figure is the
    mean over the seeds that trained.

    Args:
        results: a run.
        dataset: whose table to compare with; None for that of the run's own data set.
        reading: which of the run's candidates; None for the dense ones, or the others where it has no dense one.

    Returns:
        A row a column of the paper: column, mean_absolute_difference (null without rows), rank_correlation
        (Spearman's, ties at their average rank; null below three rows or where one side is constant), rows,
        paper_untrained and run_untrained (candidates of the run left out because they did not train in the paper;
        because they did there and not here). None if the paper has no table of the data set.

    Raises:
        InputError: if `dataset` is given and the paper has no table of it.
    """
    dataset = dataset or own_table(results)
    if dataset is None:
        return None
    paper = trained_rows(dataset)
    chosen: Reading = reading or [*readings(results, dataset), "dense"][0]
    means = results.candidate_means(trained_only=True).rename({name: f"our_{name}" for name in PAPER_COLUMNS.values()})
    pairs = paper.join(_as_in_paper(means, chosen), on="hidden_layers", how="inner")
    asked = set(_as_in_paper(results.table, chosen)["hidden_layers"])
    in_paper, comparable = asked & set(paper_table(dataset)["hidden_layers"]), asked & set(paper["hidden_layers"])
    counts = {"paper_untrained": len(in_paper - comparable), "run_untrained": len(comparable) - len(pairs)}
    rows = [
        {"column": name, **_compare(pairs[name], pairs[f"our_{own}"]), **counts} for name, own in PAPER_COLUMNS.items()
    ]
    return pl.DataFrame(rows, schema=_DISTANCE)


def readings(results: Results, dataset: PaperName) -> list[Reading]:
    """The readings of the paper's candidates that a run has."""
    names = set(paper_table(dataset)["hidden_layers"])
    return [each for each in READINGS if names & set(_as_in_paper(results.table, each)["hidden_layers"])]


def _as_in_paper(frame: pl.DataFrame, reading: Reading) -> pl.DataFrame:
    """The rows of a reading, their candidates named as the paper names them."""
    filters = pl.col("hidden_layers").str.contains(_FILTERS)
    if reading == "dense":
        return frame.filter(~filters)
    return frame.filter(filters).with_columns(pl.col("hidden_layers").str.replace_all("c", ""))


def own_table(results: Results) -> PaperName | None:
    """The data set of a run, if the paper has a table of it."""
    return next((name for name in PAPER_NAMES if name == results.dataset), None)


_DISTANCE = {
    "column": pl.String,
    "mean_absolute_difference": pl.Float64,
    "rank_correlation": pl.Float64,
    "rows": pl.Int64,
    "paper_untrained": pl.Int64,
    "run_untrained": pl.Int64,
}


def distance_lines(results: Results, dataset: PaperName | None = None, width: int = 80) -> list[str]:
    """`distance` of each reading that a run has, as plain text; nothing where the paper has no table, or none of the
    run's networks.

    Args:
        results: a run.
        dataset: as in `distance`.
        width: columns of the terminal, at least 60.
    """
    dataset = dataset or own_table(results)
    if dataset is None:
        return []
    return [line for reading in readings(results, dataset) for line in _lines(results, dataset, reading, width)]


def _lines(results: Results, dataset: PaperName, reading: Reading, width: int) -> list[str]:
    frame = distance(results, dataset, reading)
    assert frame is not None  # noqa: S101 (the data set is named)
    first = frame.row(0, named=True)
    lines = [
        f"distance from the paper's table of {dataset}" + (", nodes as filters" if reading == "conv" else ""),
        *textwrap.wrap(
            f"{counted(first['rows'], 'candidate')} that trained in both; "
            f"untrained: {first['paper_untrained']} in the paper, {first['run_untrained']} more here",
            width,
            subsequent_indent="  ",
        ),
        f"{'column':<28} {'mean |difference|':>17} {'rank corr.':>11}",
    ]
    for row in frame.iter_rows(named=True):
        figures = (row["mean_absolute_difference"], row["rank_correlation"])
        cells = ["-" if figure is None else decimals(figure, 4) for figure in figures]
        lines.append(f"{row['column']:<28} {cells[0]:>17} {cells[1]:>11}")
    return lines


def _compare(paper: pl.Series, ours: pl.Series) -> dict[str, object]:
    both = pl.DataFrame({"paper": paper, "ours": ours}).drop_nulls()
    return {
        "mean_absolute_difference": both.select((pl.col("paper") - pl.col("ours")).abs().mean()).item(),
        "rank_correlation": rank_correlation(both["paper"], both["ours"]),
        "rows": len(both),
    }


def rank_correlation(left: pl.Series, right: pl.Series) -> float | None:
    """Spearman's rank correlation, ties at their average rank.

    Args:
        left, right: numbers, equally many, without nulls.

    Returns:
        A number in [-1, 1]; None below three pairs or where one side is constant.
    """
    if len(left) < 3 or left.n_unique() == 1 or right.n_unique() == 1:
        return None
    ranks = pl.DataFrame({"left": left.rank("average"), "right": right.rank("average")})
    return float(ranks.select(pl.corr("left", "right")).item())


def paper_members(dataset: PaperName) -> pl.DataFrame:
    """The paper's table under our column names, as a run of one seed.

    Returns:
        40 rows: hidden_layers, depth, seed (0), status (`dead` where a phase predicts one class), the six accuracies
        and recovery_static.

    Raises:
        InputError: if the paper has no table of the data set.
    """
    dead = one_class(dataset).select(pl.any_horizontal("before", "after")).to_series()
    static, before = pl.col("attacked_accuracy_after_static"), pl.col("attacked_accuracy_before")
    return (
        paper_table(dataset)
        .rename(PAPER_COLUMNS)
        .with_columns(
            (pl.col("hidden_layers").str.count_matches("-") + 1).cast(pl.Int64).alias("depth"),
            pl.lit(0, pl.Int64).alias("seed"),
            pl.when(dead).then(pl.lit("dead")).otherwise(pl.lit("trained")).alias("status"),
            (static - before).alias("recovery_static"),
        )
    )


def tables_oddities() -> pl.DataFrame:
    """What the paper's tables show that its text does not say.

    Returns:
        Columns fact, dataset and rows (their number).
    """
    rows = []
    for dataset in PAPER_NAMES:
        members = paper_members(dataset)
        above = pl.col("attacked_accuracy_after_static") > pl.col("adversarial_test_accuracy")
        facts = {
            "two-layer rows that lost accuracy": members.filter(depth=2).filter(pl.col("recovery_static") < 0),
            "rows at one class's share, defended": one_class(dataset).filter("after"),
            "rows better attacked than clean": members.filter(above),
        }
        rows += [(fact, dataset, len(found)) for fact, found in facts.items()]
    return pl.DataFrame(rows, schema={"fact": pl.String, "dataset": pl.String, "rows": pl.Int64}, orient="row")


def row_by_row(results: Results) -> pl.DataFrame:
    """Each candidate's recovery in the paper's tables and here, with what is odd about it.

    Flags: `lost` (recovery below 0), `chance` (one class, after the defence; here a member that is dead), `above`
    (more accurate on static adversarial images than on clean ones), `diverged`.

    Returns:
        Columns hidden_layers, mnist, mnist_flags, cifar10, cifar10_flags (the paper's; null where it has no such
        candidate), recovery_static, recovery_white_box, flags (null where the run has none); the paper's order, then
        the run's.
    """
    frame = results.candidate_means()
    ours = frame.join(
        results.table.group_by("hidden_layers").agg(pl.col("recovery_static", "recovery_white_box").mean()),
        on="hidden_layers",
        maintain_order="left",
    )
    ours = ours.select(
        "hidden_layers", "recovery_static", "recovery_white_box", flags=_flags(pl.col("status") == "dead")
    )
    mnist, cifar10 = (_paper_row_by_row(dataset) for dataset in PAPER_NAMES)
    joined = mnist.join(cifar10, on="hidden_layers", maintain_order="left")
    return joined.join(ours, on="hidden_layers", how="full", coalesce=True, maintain_order="left_right")


def _paper_row_by_row(dataset: PaperName) -> pl.DataFrame:
    members = paper_members(dataset).with_columns(one_class(dataset)["after"])
    flags = _flags(pl.col("after")).alias(f"{dataset}_flags")
    return members.select("hidden_layers", pl.col("recovery_static").alias(dataset), flags)


def _flags(chance: pl.Expr) -> pl.Expr:
    marks = {
        "lost": pl.col("recovery_static") < 0,
        "chance": chance,
        "above": pl.col("attacked_accuracy_after_static") > pl.col("adversarial_test_accuracy"),
        "diverged": pl.col("status") == "diverged",
    }
    shown = [pl.when(mark).then(pl.lit(name)) for name, mark in marks.items()]
    return pl.concat_str(shown, separator=" ", ignore_nulls=True)
