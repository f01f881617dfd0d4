"""The section of what each attack took: candidate by candidate, of the parts of one attack, and of single ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from atras.registry import name_of
from atras.report.charts import Bar, Bars, Estimate, estimate, number
from atras.report.section import Section
from atras.results import Results

from .attack_names import file_part
from .attack_rows import PHASES, Ball, balls, known_attack, mean_accuracies
from .depth_charts import depth_label
from .population import trained_members

LEFT = "left"


def attack_parts(results: Results) -> Section:
    """Robust accuracy by attack for each candidate: stacked for attacks in turn, side by side for single ones.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title = "What each attack took"
    kept = [ball for ball in _one_a_norm(results) if ball.rows["attack"].n_unique() > 1]
    if not kept:
        missing = "One attack was evaluated: run with --attack autoattack to see what four attacks in turn take."
        return Section("attack_parts", title, (missing,))
    whole = [(ball, attack) for ball in kept for attack in ball.rows["attack"].unique(maintain_order=True)]
    whole = [(ball, attack) for ball, attack in whole if (made := known_attack(attack)) and made.part_names]
    text, figures = [], []
    if whole and results.outcomes.is_empty():
        text.append(
            f"Which part of {name_of(whole[0][1])} took what is not known: outcomes image by image were left out; run "
            "with --outcomes all."
        )
    elif whole:
        text.append(
            "A bar is as long as the network's accuracy without an attack. Each part of the attack is given what the "
            "ones before it left: from the right, what the first part took, then the second, down to what is left, the "
            "robust accuracy, which stands beside the bar."
        )
        figures += [chart for ball, attack in whole for chart in _stacked(results, ball, attack)]
    singles = [chart for ball in kept for chart in _side_by_side(ball)]
    if singles:
        text.append(
            "Side by side: accuracy under each attack by itself, the weakest on average first. These attacks are not "
            "in sequence: each begins with all images, and what one took another may have taken too."
        )
    return Section("attack_parts", title, tuple(text), (*figures, *singles))


def _one_a_norm(results: Results) -> list[Ball]:
    """For each norm the run's epsilon, or that of most attacks."""
    best: dict[str, Ball] = {}
    for ball in balls(results):
        known = best.setdefault(ball.norm, ball)
        if ball.rows["attack"].n_unique() > known.rows["attack"].n_unique():
            best[ball.norm] = ball
    return list(best.values())


def _stacked(results: Results, ball: Ball, attack: str) -> Iterator[Bars]:
    made = known_attack(attack)
    parts = made.part_names if made else ()
    outcomes = results.outcomes.filter(
        (pl.col("mode") == "white-box") & (pl.col("label_source") == "true"),
        attack=attack,
        norm=ball.norm,
        epsilon=ball.epsilon,
    )
    members = outcomes.join(trained_members(results), on=["hidden_layers", "seed"], how="inner", maintain_order="left")
    took = [(~pl.col("correct") & (pl.col("part") == part)).fill_null(False).mean().alias(part) for part in parts]
    for phase, label in PHASES.items():
        means = (
            members.filter(phase=phase)
            .group_by("hidden_layers", maintain_order=True)
            .agg(pl.col("depth").first(), pl.col("correct").mean().alias(LEFT), *took)
        )
        if means.is_empty():
            continue
        order = [LEFT, *reversed(parts)]
        told = ", ".join(f"{part} took {number(_mean(means, part))}" for part in parts)
        rows = [
            Bar(row["hidden_layers"], depth_label(row["depth"]), tuple(row[part] for part in order))
            for row in means.sort("depth", LEFT, descending=[False, True], maintain_order=True).to_dicts()
        ]
        yield Bars(
            f"parts-{file_part(attack)}-{ball.norm}-{phase}",
            f"{attack} at {ball.text}, {label} networks",
            f"Means over candidates: {told}; {number(_mean(means, LEFT))} is left.",
            "share of the test images",
            tuple(rows),
            parts=(LEFT, *(f"taken by {part}" for part in reversed(parts))),
        )


def _mean(means: pl.DataFrame, column: str) -> float:
    return float(str(means[column].mean()))


def _side_by_side(ball: Ball) -> Iterator[Bars]:
    order = list(mean_accuracies(ball.rows))
    order.sort(key=lambda attack: name_of(attack) == "worst")  # the worst case, of all of them, comes last
    for phase, label in PHASES.items():
        rows = ball.rows.filter(phase=phase)
        if rows.is_empty():
            continue
        bars = sorted(
            (_marks(own, order) for _, own in rows.group_by("hidden_layers", maintain_order=True)),
            key=lambda bar: (int(bar.group.split()[0]), -min(mark.mean or 0.0 for mark in bar.marks)),
        )
        means, names = mean_accuracies(rows), [_short(attack) for attack in order]
        told = ", ".join(f"{name} {number(means.get(attack))}" for name, attack in zip(names, order, strict=True))
        yield Bars(
            f"singles-{ball.norm}-{phase}",
            f"Attacks at {ball.text} by themselves, {label} networks",
            f"Means over candidates: {told}.",
            "accuracy",
            tuple(bars),
            marks=tuple(names),
        )


def _short(attack: str) -> str:
    return "worst case" if name_of(attack) == "worst" else attack


def _marks(own: pl.DataFrame, attacks: Sequence[str]) -> Bar:
    """A candidate's accuracy under each attack, over its seeds."""
    marks = [_estimate(own.filter(attack=attack)) for attack in attacks]
    return Bar(own["hidden_layers"][0], depth_label(own["depth"][0]), marks=tuple(marks))


def _estimate(rows: pl.DataFrame) -> Estimate:
    return estimate(rows["accuracy"].to_list(), int(rows["n"][0])) if len(rows) else Estimate(None)
