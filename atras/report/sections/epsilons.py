"""The section of the attack's strength: accuracy by epsilon, before and after the defence."""

from __future__ import annotations

import polars as pl

from atras.analysis import attack_aim
from atras.registry import name_of
from atras.report.charts import Chart, Point, Series, bootstrap_mean, linear, number
from atras.report.section import Section
from atras.results import Results

from .attack_names import attack_name, file_part
from .depth_charts import lines_by_depth
from .population import last_test_metrics, phase_texts


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
        charts += [_panel(clean, rows, str(norm), phase) for phase in phases.items() if phase[0] in set(rows["phase"])]
    for (label,), rows in attacked.group_by("label", maintain_order=True):
        both = pl.concat([clean, rows])
        charts += [_chart(both, str(label), phase) for phase in phases.items() if phase[0] in set(rows["phase"])]
    text = (
        "Accuracy on attacked test images, averaged over the members that trained: by attack with 95 % intervals, then "
        "by depth. An image that an attack turns at one epsilon counts as turned at all larger ones. FGSM takes one "
        "step of each epsilon, also from a random start, and attacks towards a class, or at the predicted label, count "
        "what they turn at each: their lines may rise again."
    )
    return Section("epsilons", title, (text,), tuple(charts))


def _panel(clean: pl.DataFrame, attacked: pl.DataFrame, norm: str, phase: tuple[str, str]) -> Chart:
    """All attacks of a norm, a line each, under their names where those tell them apart; a phase and its words."""
    series, ends = [], []
    own_rows = list(attacked.group_by("attack", "aim", "label", maintain_order=True))
    names = [f"{name_of(str(attack))}{aim}" for (attack, aim, _), _ in own_rows]
    for index, ((_, _, label), rows) in enumerate(own_rows):
        own = pl.concat([clean, rows]).filter(pl.col("phase") == phase[0]).sort("epsilon", maintain_order=True)
        points = []
        for (epsilon,), part in own.group_by("epsilon", maintain_order=True):
            mean, low, high = bootstrap_mean(part["accuracy"].to_list())
            points.append(Point(float(str(epsilon)), mean or 0.0, low, high))
        name = names[index] if names.count(names[index]) == 1 else str(label)
        series.append(Series(name, index, tuple(points), line=True))
        ends.append(f"{label} {number(points[-1].y)} at {points[-1].x:g}")
    return Chart(
        f"epsilons-{norm}-{phase[0]}",
        f"Accuracy by epsilon in {norm}{f' under {names[0]}' if len(names) == 1 else ''}, {phase[1]}",
        f"Means with 95 % intervals. {', '.join(ends)}.",
        linear(f"epsilon ({norm})", attacked["epsilon"], 0),
        linear("accuracy", [0.0, 1.0], 0, 1),
        tuple(series),
    )


def _chart(metrics: pl.DataFrame, attack: str, phase: tuple[str, str]) -> Chart:
    """One attack, a line for each depth; a phase and its words."""
    of_phase = metrics.filter(pl.col("phase") == phase[0])
    means = of_phase.group_by("depth", "epsilon").agg(pl.col("accuracy").mean()).sort("depth", "epsilon")
    series = lines_by_depth(means, "epsilon", "accuracy")
    last = ", ".join(f"{entry.label} {number(entry.points[-1].y)}" for entry in series)
    return Chart(
        f"epsilons-{file_part(attack)}-{phase[0]}",
        f"Accuracy under {attack}, {phase[1]}",
        f"At the largest epsilon, {float(str(means['epsilon'].max())):g}: {last}.",
        linear("epsilon", means["epsilon"], 0),
        linear("accuracy", [0.0, 1.0], 0, 1),
        series,
    )
