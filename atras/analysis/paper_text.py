"""The figures that the paper's text states, the columns and rows of its tables that give them, and what a run gives.

The text does not say which rows and columns it means. A search over all ordered pairs of columns and all ranges of
rows, both tables at once, finds one reading of each figure (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl

from atras.results import Results

from .paper_tables import LARGE, PAPER_NAMES, PaperName, own_table, paper_members, paper_table
from .provenance import require_whole
from .statistics import (
    Interval,
    Mean,
    Term,
    Verdict,
    column_terms,
    equivalent,
    independent_images,
    members_mean,
    with_images,
)

MARGIN = 0.01
"""How far from a stated figure another may lie, one point of accuracy, to be called the same. Our choice."""

AFTER, BEFORE = "attacked_accuracy_after_static", "attacked_accuracy_before"
DOUBLED = "adversarial_train_accuracy"


Group = tuple[pl.DataFrame, list[Term]]
"""Members, with columns hidden_layers, seed and value, and the mean accuracies that the value's mean is a sum of."""


@dataclass(frozen=True)
class Definition:
    """What a figure is: a mean over rows of one column, or of one less another.

    Args:
        plus: the column.
        minus: what is taken from it; None for nothing.
        rows: which rows, in words.
        chosen: the expression that takes them, of a table with columns hidden_layers and depth.
        trained_only: whether members that did not train are left out.
    """

    plus: str
    minus: str | None
    rows: str
    chosen: Callable[[], pl.Expr]
    trained_only: bool = False

    @property
    def text(self) -> str:
        """Columns and rows in words."""
        columns = _WORDS[self.plus] + (f" less {_WORDS[self.minus]}" if self.minus else "")
        return f"{columns}; {self.rows}"

    def members(self, table: pl.DataFrame) -> pl.DataFrame:
        """The members that it is about: columns hidden_layers, seed, value."""
        value = pl.col(self.plus) - pl.col(self.minus) if self.minus else pl.col(self.plus)
        rows = table.filter(self.chosen(), pl.col("status") == "trained") if self.trained_only else table.filter(
            self.chosen()
        )  # fmt: skip
        return rows.select("hidden_layers", "seed", value=value).drop_nulls()

    def group(self, table: pl.DataFrame, results: Results | None) -> Group:
        """`members` with the accuracies behind them, of which a table without a run tells nothing."""
        rows = self.members(table)
        if results is None or rows.is_empty():
            return rows, []
        terms = column_terms(results, self.plus, rows)
        return rows, [*terms, *(column_terms(results, self.minus, rows, sign=-1) if self.minus else [])]

    def mean(self, table: pl.DataFrame, results: Results | None = None) -> Mean | None:
        """The figure with what seeds, and of a run the test images, leave open; None without such members."""
        rows, terms = self.group(table, results)
        if not len(rows):
            return None
        mean = members_mean(rows, "value", [], None)
        # One seed judges nothing: it has no interval here.
        images = None if results is None else independent_images(results, AFTER)
        return with_images(mean, terms, images) if mean.parts else mean


_WORDS = {
    AFTER: "attacked after (old images)",
    BEFORE: "attacked before",
    DOUBLED: "adversarial train accuracy",
    "adversarial_test_accuracy": "clean after",
}


@dataclass(frozen=True)
class Statement:
    """A figure of the paper's text.

    Args:
        name: in a few words.
        stated: by data set, as an accuracy; of the others the text is silent.
        theirs: what gives that figure by the tables.
        ours: what the words mean by our definitions.
    """

    name: str
    stated: Mapping[PaperName, float]
    theirs: Definition
    ours: Definition


def _depth(*depths: int) -> Callable[[], pl.Expr]:
    return lambda: pl.col("depth").is_in(depths)


def _larger() -> pl.Expr:
    return pl.col("depth") >= LARGE


def _rows_3_to_7() -> pl.Expr:
    names = paper_table("mnist")["hidden_layers"][2:7].to_list()
    # Nodes may be filters too: c24-c48-...
    return pl.col("hidden_layers").str.replace_all("c", "").is_in(names)


def _more_than_one() -> pl.Expr:
    return pl.col("depth") > 1


ALL = "untrained ones included"
TRAINED = "those that trained"


def _gain(words: str, chosen: Callable[[], pl.Expr], *, ours: bool = False) -> Definition:
    return Definition(AFTER, BEFORE, f"{words}, {TRAINED if ours else ALL}", chosen, ours)


def _after(words: str, chosen: Callable[[], pl.Expr], *, ours: bool = False) -> Definition:
    return Definition(AFTER, None, f"{words}, {TRAINED if ours else ALL}", chosen, ours)


_LARGER_ROWS = f"{LARGE} and more hidden layers"
STATEMENTS = (
    Statement(
        "gain of one hidden layer",
        MappingProxyType({"mnist": 0.0458, "cifar10": 0.352}),
        _gain("one hidden layer (rows 37 to 40)", _depth(1)),
        _gain("one hidden layer", _depth(1), ours=True),
    ),
    Statement(
        "gain of two hidden layers",
        MappingProxyType({"mnist": -0.025, "cifar10": -0.445}),
        Definition(AFTER, DOUBLED, f"two hidden layers (rows 19 to 36), {ALL}", _depth(2)),
        _gain("two hidden layers", _depth(2), ours=True),
    ),
    Statement(
        "gain of three hidden layers",
        MappingProxyType({"mnist": 0.0406, "cifar10": 0.3130}),
        _gain("three hidden layers (rows 11 to 18)", _depth(3)),
        _gain("three hidden layers", _depth(3), ours=True),
    ),
    Statement(
        "gain of larger networks",
        MappingProxyType({"mnist": 0.0099, "cifar10": 0.0728}),
        _gain("rows 3 to 7", _rows_3_to_7),
        _gain(_LARGER_ROWS, _larger, ours=True),
    ),
    Statement(
        "attacked after, one hidden layer",
        MappingProxyType({"cifar10": 0.53}),
        _after("one hidden layer (rows 37 to 40)", _depth(1)),
        _after("one hidden layer", _depth(1), ours=True),
    ),
    Statement(
        "attacked after, more hidden layers",
        MappingProxyType({"cifar10": 0.4334}),
        _after("two and more hidden layers (rows 1 to 36)", _more_than_one),
        _after("two and more hidden layers", _more_than_one, ours=True),
    ),
)
"""Every figure that the text states of its tables, in its order."""

GAINS = STATEMENTS[:4]
"""Those about the four groups of the text."""


@dataclass(frozen=True)
class Stated:
    """A stated figure on a table of the paper or on a run.

    Args:
        statement: which one.
        where: `mnist` or `cifar10` for the paper's table; `here` for the run.
        stated: the text's figure; None where it is silent on the data set.
        theirs, ours: the figure under the paper's own definition and under ours; None without such members.
        theirs_verdict, ours_verdict: `holds` where it is the stated one within MARGIN, with its whole interval; of the
            tables, which have no intervals, by the figure alone.
    """

    statement: Statement
    where: str
    stated: float | None
    theirs: Interval | None
    theirs_verdict: Verdict
    ours: Interval | None
    ours_verdict: Verdict


def stated_figures(results: Results, dataset: PaperName | None = None, *, partial: bool = False) -> list[Stated]:
    """Each figure of the paper's text on its own tables and on a run, under its definition and under ours.

    Args:
        results: a run.
        dataset: whose stated figures the run is held against; None for those of its own data set.
        partial: also of a run that is not finished, by what is there.

    Returns:
        For every statement the two tables, then the run.

    Raises:
        InputError: if groups are missing and `partial` is not set.
    """
    require_whole(results, partial)
    dataset = dataset or own_table(results)
    tables = tables_figures()
    of_run = [_stated(one, "here", results.table, results, None if dataset is None else one.stated.get(dataset))
              for one in STATEMENTS]  # fmt: skip
    return [entry for one, run in zip(STATEMENTS, of_run, strict=True) for entry in
            [*(table for table in tables if table.statement is one), run]]  # fmt: skip


def tables_figures() -> list[Stated]:
    """Each figure of the paper's text on its own two tables, under its definition and under ours."""
    members = {name: paper_members(name) for name in PAPER_NAMES}
    return [_stated(one, name, members[name], None, one.stated.get(name)) for one in STATEMENTS for name in PAPER_NAMES]


def _stated(
    statement: Statement, where: str, table: pl.DataFrame, results: Results | None, stated: float | None
) -> Stated:
    found: list[tuple[Interval | None, Verdict]] = []
    for definition in (statement.theirs, statement.ours):
        mean = definition.mean(table, results)
        interval = None if mean is None else mean.interval()
        if where != "here" and interval is not None:
            exact = Interval(interval.mean, interval.mean, interval.mean)  # a table is what it is
            found.append((exact, "unresolved" if stated is None else equivalent(exact, stated, MARGIN)))
        else:
            found.append((interval, "unresolved" if stated is None else equivalent(interval, stated, MARGIN)))
    (theirs, their_verdict), (ours, our_verdict) = found
    return Stated(statement, where, stated, theirs, their_verdict, ours, our_verdict)
