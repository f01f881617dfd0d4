"""The section of what each attack took: candidate by candidate, of the parts of one attack, and of single ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from atras.registry import name_of
from atras.report.charts import Bar, Bars, rounded
from atras.report.section import Section
from atras.results import Results

from .attack_names import file_part
from .attack_rows import PHASES, Ball, balls, known_attack, mean_accuracies
from .depth_charts import depth_label
from .population import metric_estimate, trained_members

LEFT = "left"


def attack_parts(results: Results) -> Section:
    """Robust accuracy by attack for each candidate: stacked for attacks in turn, side by side for single ones.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title, found = "What each attack took", list(balls(results))
    text, figures = [], []
    whole = _with_parts(found)
    if whole and results.outcomes.is_empty():
        text.append(
            f"Which part of {', '.join(whole)} took what is not known: outcomes image by image were left out; run with "
            "--outcomes all."
        )
    elif whole:
        text.append(
            "A bar is as long as the network's accuracy without an attack. Each part of the attack is given what the "
            "ones before it left: from the right, what the first part took, then the second, down to what is left, the "
            "robust accuracy, which stands beside the bar."
        )
        figures += [chart for attack, ball in whole.items() for chart in _stacked(results, ball, attack)]
    several = [ball for ball in _one_a_norm(found) if ball.rows["attack"].n_unique() > 1]
    if several:
        text.append(
            "Accuracy under each attack by itself, the weakest on average first, joined by a line. These attacks are "
            "not in sequence: each begins with all images, and what one took another may have taken too. Up to 12 "
            "networks, the bar is the 95 % interval of the last."
        )
        figures += [chart for ball in several for chart in _side_by_side(results, ball)]
    missing = "One attack was evaluated: run with --attack autoattack to see what four attacks in turn take."
    return Section("attack_parts", title, tuple(text or [missing]), tuple(figures), detail=bool(figures))


def _with_parts(found: Sequence[Ball]) -> dict[str, Ball]:
    """The attacks that are made of others, each with the first ball that it is in."""
    whole: dict[str, Ball] = {}
    for ball in found:
        for attack in ball.rows["attack"].unique(maintain_order=True):
            made = known_attack(attack)
            if made is not None and made.part_names:
                whole.setdefault(attack, ball)
    return whole


def _one_a_norm(found: Sequence[Ball]) -> list[Ball]:
    """For each norm the run's epsilon, or that of most attacks."""
    best: dict[str, Ball] = {}
    for ball in found:
        known = best.setdefault(ball.norm, ball)
        if not known.own and ball.rows["attack"].n_unique() > known.rows["attack"].n_unique():
            best[ball.norm] = ball
    return list(best.values())


def _stacked(results: Results, ball: Ball, attack: str) -> Iterator[Bars]:
    """A chart for each phase of what the parts of an attack took."""
    made = known_attack(attack)
    parts = made.part_names if made else ()
    order, shares = [LEFT, *reversed(parts)], _shares(results, ball, attack, parts)
    for phase, label in PHASES.items():
        means = shares.filter(phase=phase).sort("depth", LEFT, descending=[False, True], maintain_order=True)
        if means.is_empty():
            continue
        took, most = max((_mean(means, part), part) for part in parts)
        yield Bars(
            f"parts-{file_part(attack)}-{ball.norm}-{phase}",
            f"{attack} at {ball.text}, {label} networks",
            f"On average {most} took most, {rounded(took)}, and {rounded(_mean(means, LEFT))} is left.",
            "share of the test images",
            tuple(
                Bar(row["hidden_layers"], depth_label(row["depth"]), tuple(row[part] for part in order))
                for row in means.to_dicts()
            ),
            parts=(LEFT, *(f"taken by {part}" for part in reversed(parts))),
        )


def _shares(results: Results, ball: Ball, attack: str, parts: Sequence[str]) -> pl.DataFrame:
    """A row a phase and candidate: shares of the images, over its seeds that trained, that each part took, and left."""
    outcomes = results.outcomes.filter(
        (pl.col("mode") == "white-box") & (pl.col("label_source") == "true"),
        attack=attack,
        norm=ball.norm,
        epsilon=ball.epsilon,
    )
    members = outcomes.join(trained_members(results), on=["hidden_layers", "seed"], how="inner", maintain_order="left")
    took = [(~pl.col("correct") & (pl.col("part") == part)).fill_null(False).mean().alias(part) for part in parts]
    figures = [pl.col("depth").first(), pl.col("correct").mean().alias(LEFT), *took]
    return members.group_by("phase", "hidden_layers", maintain_order=True).agg(*figures)


def _mean(means: pl.DataFrame, column: str) -> float:
    return float(str(means[column].mean()))


def _side_by_side(results: Results, ball: Ball) -> Iterator[Bars]:
    order = list(mean_accuracies(ball.rows))
    order.sort(key=lambda attack: name_of(attack) == "worst")  # the worst case, of all of them, comes last
    for phase, label in PHASES.items():
        rows = ball.rows.filter(phase=phase)
        if rows.is_empty():
            continue
        bars = sorted(
            (_marks(results, own, order) for _, own in rows.group_by("hidden_layers", maintain_order=True)),
            key=lambda bar: (int(bar.group.split()[0]), -(bar.marks[-1].mean or 0.0)),
        )
        means, names = mean_accuracies(rows), [_short(attack) for attack in order]
        yield Bars(
            f"singles-{ball.norm}-{phase}",
            f"From the weakest attack to the strongest at {ball.text}, {label} networks",
            _conclusion(
                bars, {name: means[attack] for name, attack in zip(names, order, strict=True) if attack in means}
            ),
            "accuracy",
            tuple(bars),
            marks=tuple(names),
            joined=True,
        )


def _conclusion(bars: Sequence[Bar], means: dict[str, float]) -> str:
    """How much the last attack takes beyond the first, and where the most."""
    (weak, most), (strong, least) = next(iter(means.items())), list(means.items())[-1]
    gaps = [
        (bar.marks[0].mean - bar.marks[-1].mean, bar.name)
        for bar in bars
        if bar.marks[0].mean is not None and bar.marks[-1].mean is not None
    ]
    widest, name = max(gaps, default=(0.0, ""))
    said = f"The {strong}" if strong == "worst case" else strong
    where = f", and most from {name}, {rounded(widest)}" if len(gaps) > 1 and widest > 0 else ""
    return f"{said} takes {rounded(most - least)} more than {weak} on average{where}."


def _short(attack: str) -> str:
    return "worst case" if name_of(attack) == "worst" else attack


def _marks(results: Results, own: pl.DataFrame, attacks: Sequence[str]) -> Bar:
    """A candidate's accuracy under each attack, over its seeds."""
    marks = [metric_estimate(results, own.filter(attack=attack)) for attack in attacks]
    return Bar(own["hidden_layers"][0], depth_label(own["depth"][0]), marks=tuple(marks))
