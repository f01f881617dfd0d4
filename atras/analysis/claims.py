"""Each claim of the paper, evaluated on the paper's own tables and on a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from atras.results import Results

from .paper_tables import LARGE, STATED_RECOVERY, PaperName, own_table, paper_members, rank_correlation
from .provenance import require_whole
from .statistics import Interval, bootstrap_mean, depth_means, mean_difference, robust_column
from .step_timing import measured_steps

Verdict = Literal["holds", "fails", "unresolved"]

ENOUGH_SEEDS = 5
"""Seeds from which on intervals are over seeds; with fewer they are over the candidates of a depth."""

TRANSFER_SHARE = 0.5
"""Share of its white-box effect that an attack must keep on another network to be said to transfer. Our choice."""

STATIC, WHITE_BOX = "recovery_static", "recovery_white_box"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what became of it.

    Args:
        name: the claim in a few words.
        stated: the paper's own figure or words.
        paper_figure: the figure that its table of the same data set gives; None where it has none.
        ours, low, high: the run's figure and its interval; None where the run cannot tell.
        verdict: of the run: `holds` or `fails` where the whole interval says so, else `unresolved`.
        text: what the figure is and how it was obtained, or what is missing.
        paper_verdict: of the paper's own table, which has no intervals.
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


def claims(results: Results, dataset: PaperName | None = None, *, partial: bool = False) -> list[Claim]:
    """Evaluate every claim of the paper on a run.

    Args:
        results: a run.
        dataset: whose table of the paper to evaluate them on too; None for that of the run's own data set.
        partial: also of a run that is not finished, by what is there.

    Returns:
        Claims about recovery, robustness, speed and transfer, in this order.

    Raises:
        InputError: if groups are missing and `partial` is not set.
    """
    require_whole(results, partial)
    dataset = dataset or own_table(results)
    paper = None if dataset is None else paper_members(dataset)
    run = results.table
    column = robust_column(results)
    small = "largest at one hidden layer"
    return [
        _two_layers(run, paper, dataset),
        _larger(run, paper, dataset),
        _smallest("recovery (static) is largest on small networks", small, run, paper, STATIC),
        _smallest("recovery (white-box) is largest on small networks", small, run, None, WHITE_BOX),
        _smallest("small networks are most robust (static)", small, run, paper, "attacked_accuracy_after_static"),
        _smallest("small networks are most robust (white-box)", small, run, None, column),
        _smallest("post-defence accuracy is best on small", small, run, paper, "adversarial_test_accuracy"),
        _faster(results),
        _transfers(results),
    ]


def why_no_claims(results: Results) -> str:
    """Why a run has none of the paper's claims to check; empty where it has."""
    if results.defends:
        return ""
    without = "a defence" if results.trains else "training"
    return f"a run without {without} has none of the paper's claims to check: they are about its defence"


def _two_layers(run: pl.DataFrame, paper: pl.DataFrame | None, dataset: PaperName | None) -> Claim:
    name = "two-hidden-layer networks lose accuracy"
    stated = "a loss" if dataset is None else f"{STATED_RECOVERY[dataset][0]:+.4f}"
    of_paper = None if paper is None else _mean(paper.filter(pl.col("depth") == 2), STATIC)
    interval, unit = _group_mean(run, [2], STATIC)
    text = f"mean static recovery of two hidden layers, {unit}"
    return _claim(name, stated, of_paper, interval, text, sign=-1)


def _larger(run: pl.DataFrame, paper: pl.DataFrame | None, dataset: PaperName | None) -> Claim:
    name = f"networks of {LARGE} and more hidden layers recover little"
    large = pl.col("depth") >= LARGE
    depths = run.filter(large)["depth"].unique().to_list()
    interval, unit = _group_mean(run, depths, STATIC, trained_only=False)
    text = f"mean static recovery of {LARGE} and more hidden layers, untrained members included, {unit}"
    if dataset is None or paper is None:
        text += "; the paper states no figure for this data set"
        stated = " and ".join(f"{figures[1]:+.4f} ({other})" for other, figures in STATED_RECOVERY.items())
        return _claim(name, stated, None, interval, text, sign=0)
    figure = STATED_RECOVERY[dataset][1]
    of_paper = _mean(paper.filter(large), STATIC)
    # The text has two decimals of a percent.
    of_table: Verdict = "holds" if of_paper is not None and abs(of_paper - figure) < 1e-4 else "fails"
    verdict: Verdict = "unresolved"
    if interval is not None and interval.low is not None and interval.high is not None:
        verdict = "holds" if interval.low <= figure <= interval.high else "fails"
    return Claim(name, f"{figure:+.4f}", of_paper, *_ends(interval), verdict, text, of_table)


def _smallest(name: str, stated: str, run: pl.DataFrame, paper: pl.DataFrame | None, column: str) -> Claim:
    of_paper = None
    if paper is not None:
        of_paper = _gap(_by_depth(paper, column))[0]
    interval, text = _lead(run, column)
    return _claim(name, stated, of_paper, interval, text, sign=1)


def _lead(run: pl.DataFrame, column: str) -> tuple[Interval | None, str]:
    """The lead of one hidden layer over the best other depth, over members that trained."""
    means = _by_depth(run, column)
    if 1 not in means or len(means) < 2:
        return None, "needs trained candidates of one hidden layer and of more; run without --depth"
    _, other = _gap(means)
    # The best of several others is chosen, so the interval has to hold for all of them at once.
    confidence = 1 - 0.05 / (len(means) - 1)
    text = f"{column}: one hidden layer less the best other depth ({other})"
    if run["seed"].n_unique() >= ENOUGH_SEEDS:
        by_seed = depth_means(run, column)
        one, best = (dict(by_seed.filter(pl.col("depth") == d).select("seed", "mean").iter_rows()) for d in (1, other))
        if one and best:
            differences = [one[seed] - best[seed] for seed in one]
            return bootstrap_mean(differences, confidence=confidence), f"{text}, over {len(one)} seeds"
    left, right = (_candidate_means(run, [depth], column, trained_only=True) for depth in (1, other))
    interval = mean_difference(left, right, confidence=confidence)
    if interval.low is None or interval.high is None:
        return interval, f"{text}; too few candidates for an interval, run with --seeds 0-{ENOUGH_SEEDS - 1}"
    # Two candidates a side give Student's quantile a reach that no difference of accuracies has.
    interval = Interval(interval.mean, max(interval.low, -1.0), min(interval.high, 1.0))
    return interval, f"{text}, over candidates (over seeds from {ENOUGH_SEEDS} on)"


def _gap(means: dict[int, float]) -> tuple[float, int]:
    other = max((depth for depth in means if depth != 1), key=lambda depth: (means[depth], -depth))
    return means[1] - means[other], other


def _by_depth(table: pl.DataFrame, column: str) -> dict[int, float]:
    trained = table.filter(pl.col("status") == "trained", pl.col(column).is_not_null())
    return dict(trained.group_by("depth").agg(pl.col(column).mean()).sort("depth").iter_rows())


def _group_mean(
    run: pl.DataFrame, depths: Sequence[int], column: str, *, trained_only: bool = True
) -> tuple[Interval | None, str]:
    """Mean of a column over candidates of some depths: over seeds where there are enough, else over candidates."""
    values = _candidate_means(run, depths, column, trained_only)
    if not values:
        return None, "of which the run has none"
    chosen = run.filter(pl.col("depth").is_in(depths), pl.col(column).is_not_null())
    if trained_only:
        chosen = chosen.filter((pl.col("status") == "trained").all().over("hidden_layers"))
    by_seed = chosen.group_by("seed").agg(pl.col(column).mean()).sort("seed")[column].to_list()
    if len(by_seed) >= ENOUGH_SEEDS:
        return bootstrap_mean(by_seed), f"over {len(by_seed)} seeds"
    if len(values) >= ENOUGH_SEEDS:
        return bootstrap_mean(values), f"over {len(values)} candidates (over seeds from {ENOUGH_SEEDS} on)"
    return Interval(sum(values) / len(values), None, None), f"too few candidates; --seeds 0-{ENOUGH_SEEDS - 1} tells"


def _candidate_means(run: pl.DataFrame, depths: Sequence[int], column: str, trained_only: bool) -> list[float]:
    kept = run.filter(pl.col("depth").is_in(depths), pl.col(column).is_not_null())
    if trained_only:
        kept = kept.filter(pl.col("status") == "trained")
    return kept.group_by("hidden_layers", maintain_order=True).agg(pl.col(column).mean())[column].to_list()


def _faster(results: Results) -> Claim:
    name, stated = "smaller networks are faster", "faster"
    sizes = dict(results.table.select("hidden_layers", "parameters").iter_rows())
    seconds = {key: value for key, value in measured_steps(results).items() if key in sizes}
    if not seconds:
        text = "the run has no step_seconds; `atras claims RUN --measure` takes them"
        return _claim(name, stated, None, None, text, sign=1)
    frame = pl.DataFrame({"parameters": [sizes[key] for key in seconds], "seconds": list(seconds.values())})
    correlation = rank_correlation(frame["parameters"], frame["seconds"])
    low, high = min(seconds, key=lambda key: sizes[key]), max(seconds, key=lambda key: sizes[key])
    text = (
        f"rank correlation of parameters and single-network step seconds over {len(seconds)} candidates; "
        f"{1e3 * seconds[low]:.2f} ms a step for {low}, {1e3 * seconds[high]:.2f} ms for {high}"
    )
    interval = None if correlation is None else _correlation_interval(correlation, len(seconds))
    return _claim(name, stated, None, interval, text, sign=1)


def _correlation_interval(correlation: float, n: int) -> Interval:
    """Interval of a rank correlation. Source: Bonett and Wright, Psychometrika 65 (2000), eq. 3."""
    if n < 4:
        return Interval(correlation, None, None)
    if abs(correlation) > 1 - 1e-12:
        return Interval(correlation, correlation, correlation)
    centre, half = math.atanh(correlation), 1.959964 * math.sqrt((1 + correlation**2 / 2) / (n - 3))
    return Interval(correlation, math.tanh(centre - half), math.tanh(centre + half))


def _transfers(results: Results) -> Claim:
    name, stated = "attacks made on small networks transfer to larger ones", "they transfer"
    if not len(pairs_of_a_seed(results)):
        text = "the run has no transfer between networks of a seed; a run with --transfer records it"
        return _claim(name, stated, None, None, text, sign=1)
    pairs = transfer_effects(results)
    unit = "seed" if pairs["seed"].n_unique() >= ENOUGH_SEEDS else "source"
    up, down = (_kept_shares(pairs.filter(way), unit) for way in (pl.col("larger"), ~pl.col("larger")))
    if not up:
        return _claim(name, stated, None, None, "needs candidates of several sizes that attacks can turn", sign=1)
    interval = bootstrap_mean(up) if len(up) >= ENOUGH_SEEDS else Interval(sum(up) / len(up), None, None)
    back = f"{sum(down) / len(down):.3f}" if down else "-"
    text = (
        f"share of a larger network's own white-box loss that attacks from smaller ones cause, over {len(up)} "
        f"{unit}s (from larger to smaller: {back}); holds above {TRANSFER_SHARE}"
    )
    return _claim(name, stated, None, interval, text, sign=1, threshold=TRANSFER_SHARE)


def pairs_of_a_seed(results: Results) -> pl.DataFrame:
    """Rows of frame `transfer` that `--transfer` alone records: all pairs of a phase and seed at the run's epsilon."""
    same = (pl.col("source_phase") == pl.col("phase")) & (pl.col("source_seed") == pl.col("seed"))
    rows = results.transfer.filter(pl.col("surrogate").is_null() & same & (pl.col("target") == "none"))
    epsilon = results.run["protocol"].get("epsilon")
    own = rows.filter(pl.col("epsilon") == epsilon) if epsilon is not None else rows
    return own if len(own) else rows


def transfer_effects(results: Results) -> pl.DataFrame:
    """The accuracy that each attack costs its target, beside the cost of the target's own attack; trained models,
    over members that trained.

    Returns:
        Columns source, target, seed, larger (whether the target has more parameters), loss (clean accuracy less
        accuracy under the source's attack) and own_loss; pairs of equal size are left out.
    """
    sizes = results.table.select("hidden_layers", "parameters").unique()
    clean = results.table.select(target_hidden_layers="hidden_layers", seed="seed", clean="test_accuracy")
    rows = pairs_of_a_seed(results).filter(pl.col("phase") == "trained")
    rows = rows.join(clean, on=["target_hidden_layers", "seed"])
    rows = rows.with_columns(loss=pl.col("clean") - pl.col("accuracy"))
    for side in ("source", "target"):
        names = {"hidden_layers": f"{side}_hidden_layers", "parameters": f"{side}_parameters"}
        rows = rows.join(sizes.rename(names), on=f"{side}_hidden_layers")
    keys = ["target_hidden_layers", "seed", "attack", "epsilon", "label_source"]
    # A dead network's own attack turns nothing, and its images are no attack on others.
    trained = results.table.filter(pl.col("status") == "trained").select("hidden_layers", "seed")
    for side in ("source", "target"):
        rows = rows.join(
            trained, left_on=[f"{side}_hidden_layers", "seed"], right_on=["hidden_layers", "seed"], how="semi"
        )
    own = rows.filter(pl.col("source_hidden_layers") == pl.col("target_hidden_layers"))
    rows = rows.join(own.select(*keys, own_loss="loss"), on=keys, nulls_equal=True)
    difference = pl.col("target_parameters") - pl.col("source_parameters")
    return rows.filter(difference != 0).select(
        pl.col("source_hidden_layers").alias("source"),
        pl.col("target_hidden_layers").alias("target"),
        "seed",
        (difference > 0).alias("larger"),
        "loss",
        "own_loss",
    )


def _kept_shares(pairs: pl.DataFrame, unit: str) -> list[float]:
    sums = (
        pairs.group_by(unit, maintain_order=True).agg(pl.col("loss", "own_loss").sum()).filter(pl.col("own_loss") > 0)
    )
    return (sums["loss"] / sums["own_loss"]).to_list()


def _ends(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if interval is None else (interval.mean, interval.low, interval.high)


def _mean(frame: pl.DataFrame, column: str) -> float | None:
    values = frame[column].drop_nulls().to_list()
    return sum(values) / len(values) if values else None


def _claim(
    name: str,
    stated: str,
    of_paper: float | None,
    interval: Interval | None,
    text: str,
    *,
    sign: int,
    threshold: float = 0.0,
) -> Claim:
    """A claim that its figure lies above (sign 1) or below (-1) a threshold; sign 0 for one that cannot be judged."""
    of_table = _verdict(Interval(of_paper, of_paper, of_paper), sign, 0.0) if of_paper is not None else "unresolved"
    verdict = _verdict(interval, sign, threshold) if interval is not None else "unresolved"
    return Claim(name, stated, of_paper, *_ends(interval), verdict, text, of_table)


def _verdict(interval: Interval, sign: int, threshold: float) -> Verdict:
    if interval.low is None or interval.high is None:
        return "unresolved"
    worst, best = sorted((sign * (interval.low - threshold), sign * (interval.high - threshold)))
    return "holds" if worst > 0 else "fails" if best < 0 else "unresolved"
