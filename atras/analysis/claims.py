"""Each claim of the paper, evaluated on its own tables and on a run, under its own definition and under ours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from atras.results import NORMAL_95, Results
from atras.rounding import counted

from .paper_tables import LARGE, PaperName, own_table, paper_members, rank_correlation
from .paper_text import AFTER, ALL, GAINS, STATEMENTS, TRAINED, Definition, Group
from .provenance import require_whole
from .statistics import (
    ENOUGH_SEEDS,
    Interval,
    Verdict,
    beyond,
    column_terms,
    group_difference,
    independent_images,
    lead,
    leads,
    negative,
    robust_column,
)
from .step_timing import measured_steps
from .transfer_claim import transfer_claim

STATIC, WHITE_BOX, CLEAN = "recovery_static", "recovery_white_box", "adversarial_test_accuracy"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what became of it.

    Args:
        name: the claim in a few words.
        stated: the paper's own figure or words.
        paper_figure: the figure that its table of the same data set gives under our definition; None where it has none.
        ours, low, high: the run's figure and its interval under our definition; None where the run cannot tell.
        verdict: of the run: `holds` or `fails` where the whole interval says so, else `unresolved`.
        text: what the figure is and how it was obtained, or what is missing.
        paper_verdict: of the paper's own table, which has no intervals.
        theirs: what the paper takes for it; empty where it has no definition of its own.
        table_theirs, table_theirs_verdict: the table's figure and verdict under that definition.
        run_theirs, run_theirs_verdict: the run's, with its interval.
    """

    name: str
    stated: str
    paper_figure: float | None
    ours: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    text: str
    paper_verdict: Verdict = "unresolved"
    theirs: str = ""
    table_theirs: float | None = None
    table_theirs_verdict: Verdict = "unresolved"
    run_theirs: Interval | None = None
    run_theirs_verdict: Verdict = "unresolved"


@dataclass(frozen=True)
class _Figure:
    """A figure with its interval, None where a table cannot tell; what it is; how certain, or what is missing."""

    interval: Interval | None
    text: str
    how: str


Figure = Callable[[pl.DataFrame, Results | None], _Figure]
"""From a table, and the run that it is of, None for one of the paper's, to its figure."""


def claims(results: Results, dataset: PaperName | None = None, *, partial: bool = False) -> list[Claim]:
    """Evaluate every claim of the paper on a run. Its stated figures are those of `stated_figures`.

    Args:
        results: a run.
        dataset: whose table of the paper to evaluate them on too; None for that of the run's own data set.
        partial: also of a run that is not finished, by what is there.

    Returns:
        Claims about recovery, robustness, speed and transfer, in this order.

    Raises:
        InputError: if groups are missing and `partial` is not set.
    """
    results.require_single("claims")
    require_whole(results, partial)
    dataset = dataset or own_table(results)
    paper = None if dataset is None else paper_members(dataset)
    return [*_of_figures(results.table, results, paper, robust_column(results)), _faster(results), _transfers(results)]


def why_no_claims(results: Results) -> str:
    """Why a run has none of the paper's claims to check; empty where it has."""
    if results.defends:
        return ""
    without = "a defence" if results.trains else "training"
    return f"a run without {without} has none of the paper's claims to check: they are about its defence"


def table_claims(dataset: PaperName) -> list[Claim]:
    """The claims that a table of the paper can tell of, on that table alone, in the order of `claims`.

    Raises:
        InputError: if the paper has no table of the data set.
    """
    paper = paper_members(dataset)
    return [claim for claim in _of_figures(paper.clear(), None, paper, WHITE_BOX) if claim.paper_figure is not None]


def _of_figures(table: pl.DataFrame, results: Results | None, paper: pl.DataFrame | None, robust: str) -> list[Claim]:
    run = table, results
    two, loss = STATEMENTS[1], "two-hidden-layer networks lose accuracy"
    small = "largest at one hidden layer"
    more, rest = "one layer is more robust than the rest (53 to 43.34)", "one hidden layer above all others"
    return [
        _judged(loss, "a loss", run, paper, _of(two.ours), _of(two.theirs), sign=-1),
        _judged("recovery (static) is largest on small networks", small, run, paper, _lead(STATIC), _lead_of_gains),
        _judged("recovery (white-box) is largest on small networks", small, run, None, _lead(WHITE_BOX)),
        _judged("small networks are most robust (static)", small, run, paper, _lead(AFTER), _lead_theirs(AFTER)),
        _judged("small networks are most robust (white-box)", small, run, None, _lead(robust)),
        _judged(more, rest, run, paper, _rest(TRAINED, ours=True), _rest(ALL, ours=False)),
        _judged("post-defence accuracy is best on small", small, run, paper, _lead(CLEAN), _lead_theirs(CLEAN)),
    ]


def _judged(
    name: str,
    stated: str,
    run: tuple[pl.DataFrame, Results | None],
    paper: pl.DataFrame | None,
    ours: Figure,
    theirs: Figure | None = None,
    *,
    sign: int = 1,
) -> Claim:
    """A claim that its figure lies above (sign 1) or below (-1) 0, on a run and on the paper's table."""
    of_run, of_table = ours(*run), None if paper is None else ours(paper, None).interval
    run_theirs = None if theirs is None else theirs(*run).interval
    table_theirs = None if theirs is None or paper is None else theirs(paper, None).interval
    mean, low, high = of_run.interval or (None, None, None)
    return Claim(
        name,
        stated,
        None if of_table is None else of_table.mean,
        mean,
        low,
        high,
        beyond(of_run.interval, sign),
        f"{of_run.text}; {of_run.how}" if len(run[0]) else of_run.text,
        beyond(_exact(of_table), sign),
        "" if theirs is None else theirs(*run).text,
        None if table_theirs is None else table_theirs.mean,
        beyond(_exact(table_theirs), sign),
        run_theirs,
        beyond(run_theirs, sign),
    )


def _exact(interval: Interval | None) -> Interval | None:
    """The figure of a table of the paper, which is what it is."""
    return None if interval is None else Interval(interval.mean, interval.mean, interval.mean)


def _certainty(table: pl.DataFrame) -> str:
    seeds = table["seed"].n_unique()
    if seeds == 1:
        return f"one seed tells nothing of others, run with --seeds 0-{ENOUGH_SEEDS - 1}"
    few = f", fewer than {ENOUGH_SEEDS}" if seeds < ENOUGH_SEEDS else ""
    return f"over {seeds} seeds{few}"


def _of(definition: Definition) -> Figure:
    """The figure of a definition of the text's."""

    def figure(table: pl.DataFrame, results: Results | None) -> _Figure:
        mean = definition.mean(table, results)
        if mean is None:
            return _Figure(None, definition.text, "of which the run has none")
        return _Figure(mean.interval(), definition.text, _certainty(table))

    return figure


def _lead(column: str) -> Figure:
    """The lead of one hidden layer over the best other depth, over candidates that trained with every seed."""
    text = f"{column}: one hidden layer less the best other depth"

    def figure(table: pl.DataFrame, results: Results | None) -> _Figure:
        found = leads(table, column, results=results) if column in table.columns else {}
        if not found:
            return _Figure(None, text, _MISSING)
        best = min(found, key=lambda depth: (found[depth].value, depth))
        return _Figure(lead(list(found.values())), f"{text} ({best})", _certainty(table))

    return figure


_MISSING = "needs trained candidates of one hidden layer and of more; run without --depth"


def _lead_of_gains(table: pl.DataFrame, results: Results | None) -> _Figure:
    """The lead of one hidden layer's gain over that of the text's three other groups, each as the text has it."""
    text = "gain of one hidden layer less the best of the others, each as stated below"
    groups = [statement.theirs.group(table, results) for statement in GAINS]
    return _group_lead(groups, text, table, results)


def _lead_theirs(column: str) -> Figure:
    """The lead of one hidden layer over two, three, and four and more, whether they trained or not."""
    text = f"{column}: one hidden layer less the best of two, three, {LARGE} and more, {ALL}"

    def figure(table: pl.DataFrame, results: Results | None) -> _Figure:
        rows = table.select("depth", "hidden_layers", "seed", value=column).drop_nulls()
        groups = [pl.col("depth") == 1, pl.col("depth") == 2, pl.col("depth") == 3, pl.col("depth") >= LARGE]
        members = [rows.filter(group) for group in groups]
        terms = [[] if results is None else column_terms(results, column, own) for own in members]
        return _group_lead(list(zip(members, terms, strict=True)), text, table, results)

    return figure


def _rest(words: str, *, ours: bool) -> Figure:
    """One hidden layer against all others together, attacked after the defence."""
    definitions = [(statement.ours if ours else statement.theirs) for statement in STATEMENTS[-2:]]
    text = f"{AFTER}: one hidden layer less all others together, {words}"

    def figure(table: pl.DataFrame, results: Results | None) -> _Figure:
        return _group_lead([each.group(table, results) for each in definitions], text, table, results)

    return figure


def _group_lead(groups: Sequence[Group], text: str, table: pl.DataFrame, results: Results | None) -> _Figure:
    (first, own), *others = groups
    known = [group for group in others if len(group[0])]
    if not len(first) or not known:
        return _Figure(None, text, _MISSING)
    images = None if results is None else independent_images(results, AFTER)
    differences = [group_difference(first, other, [*own, *negative(terms)], images) for other, terms in known]
    return _Figure(lead(differences), text, _certainty(table))


def _faster(results: Results) -> Claim:
    name, stated = "smaller networks are faster", "faster"
    sizes = dict(results.table.select("hidden_layers", "parameters").iter_rows())
    seconds = {key: value for key, value in measured_steps(results).items() if key in sizes}
    if not seconds:
        text = "the run has no step_seconds; `atras claims RUN --measure` takes them"
        return _of_run(name, stated, None, text)
    frame = pl.DataFrame({"parameters": [sizes[key] for key in seconds], "seconds": list(seconds.values())})
    correlation = rank_correlation(frame["parameters"], frame["seconds"])
    low, high = min(seconds, key=lambda key: sizes[key]), max(seconds, key=lambda key: sizes[key])
    text = (
        f"rank correlation of parameters and single-network step seconds over {counted(len(seconds), 'candidate')}; "
        f"{1e3 * seconds[low]:.2f} ms a step for {low}, {1e3 * seconds[high]:.2f} ms for {high}"
    )
    interval = None if correlation is None else _correlation_interval(correlation, len(seconds))
    return _of_run(name, stated, interval, text)


def _correlation_interval(correlation: float, n: int) -> Interval:
    """Interval of a rank correlation. Source: Bonett and Wright, Psychometrika 65 (2000), eq. 3."""
    if n < 4:
        return Interval(correlation, None, None)
    if abs(correlation) > 1 - 1e-12:
        return Interval(correlation, correlation, correlation)
    centre, half = math.atanh(correlation), NORMAL_95 * math.sqrt((1 + correlation**2 / 2) / (n - 3))
    return Interval(correlation, math.tanh(centre - half), math.tanh(centre + half))


def _transfers(results: Results) -> Claim:
    found = transfer_claim(results)
    name, stated = "attacks made on small networks transfer to larger ones", "they transfer"
    share = found.share
    claim = _of_run(name, stated, share, found.text)
    return dataclasses.replace(claim, verdict=found.verdict)


def _of_run(name: str, stated: str, interval: Interval | None, text: str) -> Claim:
    """A claim that its figure lies above 0, of which the tables say nothing."""
    mean, low, high = interval or (None, None, None)
    return Claim(name, stated, None, mean, low, high, beyond(interval, 1), text)
