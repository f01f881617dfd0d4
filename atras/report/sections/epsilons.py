"""The section of the attack's strength: accuracy by epsilon, before and after the defence."""

from __future__ import annotations

import polars as pl

from atras.analysis import attack_aim
from atras.registry import name_of
from atras.report.charts import Chart, Point, Series, linear, rounded
from atras.report.section import Section
from atras.results import Results

from .attack_names import attack_name, file_part
from .bounds import epsilon_axis, epsilon_text, norm_text
from .depth_charts import lines_by_depth
from .population import last_test_metrics, metric_estimate, phase_texts


def epsilons(results: Results) -> Section:
    """Accuracy by epsilon: for each norm a line for each attack, and for each attack a line for each depth.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title = "Strength of the attack"
    metrics = last_test_metrics(results).with_columns(aim=attack_aim(), label=pl.concat_str("attack", attack_aim()))
    # Without perturbation an attacked image is the clean one.
    clean = metrics.filter(attack_name() == "none").with_columns(epsilon=0.0)
    attacked = metrics.filter(~attack_name().is_in(["none", "worst"]), pl.col("epsilon") > 0)
    attacked = attacked.filter(pl.col("epsilon").n_unique().over("label") > 1)
    if not len(attacked):
        missing = "One epsilon was evaluated: run with --epsilons 0,0.01,0.02,0.05,0.1 to record more."
        return Section("epsilons", title, (missing,))
    charts: list[Chart] = []
    phases = phase_texts(results)
    for (norm,), rows in attacked.group_by("norm", maintain_order=True):
        charts += [
            _panel(results, clean, rows, str(norm), phase) for phase in phases.items() if phase[0] in set(rows["phase"])
        ]
    for (label,), rows in attacked.group_by("label", maintain_order=True):
        both = pl.concat([clean, rows])
        charts += [
            _chart(results, both, str(label), phase) for phase in phases.items() if phase[0] in set(rows["phase"])
        ]
    text = (
        "Accuracy on attacked test images, averaged over the members that trained: by attack with 95 % intervals, then "
        "by depth. An image that an attack turns at one epsilon counts as turned at all larger ones. FGSM takes one "
        "step of each epsilon, also from a random start, and attacks towards a class, or at the predicted label, count "
        "what they turn at each: their lines may rise again."
    )
    return Section("epsilons", title, (text,), tuple(charts))


def _panel(results: Results, clean: pl.DataFrame, attacked: pl.DataFrame, norm: str, phase: tuple[str, str]) -> Chart:
    """All attacks of a norm, a line each, under their names where those tell them apart; a phase and its words."""
    series, ends = [], []
    own_rows = list(attacked.group_by("attack", "aim", "label", maintain_order=True))
    names = [f"{name_of(str(attack))}{aim}" for (attack, aim, _), _ in own_rows]
    for index, ((_, _, label), rows) in enumerate(own_rows):
        own = pl.concat([clean, rows]).filter(pl.col("phase") == phase[0]).sort("epsilon", maintain_order=True)
        points = []
        for (epsilon,), part in own.group_by("epsilon", maintain_order=True):
            mean, low, high = metric_estimate(results, part)
            points.append(Point(float(str(epsilon)), mean or 0.0, low, high))
        name = names[index] if names.count(names[index]) == 1 else str(label)
        series.append(Series(name, index, tuple(points), line=True))
        ends.append((points[-1].y, name, points[-1].x))
    return Chart(
        f"epsilons-{norm}-{phase[0]}",
        f"Accuracy by epsilon in {norm_text(norm)}{f' under {names[0]}' if len(names) == 1 else ''}, {phase[1]}",
        _panel_conclusion(ends),
        epsilon_axis(norm, [0.0, *attacked["epsilon"].unique()]),
        linear("accuracy", [0.0, 1.0], 0, 1),
        tuple(series),
    )


def _panel_conclusion(ends: list[tuple[float, str, float]]) -> str:
    """Which attack leaves least at its largest epsilon."""
    accuracy, name, epsilon = min(ends)
    least = f"{name} leaves least" if len(ends) > 1 else name
    left = f"{rounded(accuracy)} at {epsilon_text(epsilon)}"
    return f"{least}: {left}." if len(ends) > 1 else f"{least} leaves {left}."


def _chart(results: Results, metrics: pl.DataFrame, attack: str, phase: tuple[str, str]) -> Chart:
    """One attack, a line for each depth; a phase and its words."""
    of_phase = metrics.filter(pl.col("phase") == phase[0])
    known = of_phase.drop_nulls("accuracy").sort("depth", "epsilon", maintain_order=True)
    rows = [
        (depth, epsilon, *metric_estimate(results, part))
        for (depth, epsilon), part in known.group_by("depth", "epsilon", maintain_order=True)
    ]
    means = pl.DataFrame(rows, schema=["depth", "epsilon", "accuracy", "low", "high"], orient="row")
    series = lines_by_depth(means, "epsilon", "accuracy", "low", "high")
    norm = str(of_phase["norm"].drop_nulls()[0])
    return Chart(
        f"epsilons-{file_part(attack)}-{phase[0]}",
        f"Accuracy under {attack}, {phase[1]}",
        _depth_conclusion(series),
        epsilon_axis(norm, [0.0, *means["epsilon"].unique()]),
        linear("accuracy", [0.0, 1.0], 0, 1),
        series,
    )


def _depth_conclusion(series: tuple[Series, ...]) -> str:
    """Which depth keeps most, and which least, at the largest epsilon."""
    ends = sorted(((entry.points[-1].y, entry.label) for entry in series), reverse=True)
    (most, first), (least, last) = ends[0], ends[-1]
    at = f"at {epsilon_text(series[0].points[-1].x)}"
    if len(ends) == 1:
        return f"{rounded(most)} is left {at}."
    return f"Networks of {first} keep most {at}, {rounded(most)}, and those of {last} least, {rounded(least)}."
