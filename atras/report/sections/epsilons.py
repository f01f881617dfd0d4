"""The section of the attack's strength: accuracy by epsilon, before and after the defence."""

from __future__ import annotations

import polars as pl

from atras.report.charts import Chart, linear, number
from atras.report.section import Section
from atras.results import Results

from .attack_names import attack_name, file_part
from .depth_charts import lines_by_depth
from .population import last_test_metrics


def epsilons(results: Results) -> Section:
    """Accuracy by epsilon for each attack, a line for each depth.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title = "Strength of the attack"
    metrics = last_test_metrics(results)
    # Without perturbation an attacked image is the clean one.
    clean = metrics.filter(attack_name() == "none").with_columns(epsilon=0.0)
    attacked = metrics.filter(~attack_name().is_in(["none", "worst"]) & (pl.col("epsilon") > 0))
    charts = []
    for (attack,), rows in attacked.group_by("attack", maintain_order=True):
        if rows["epsilon"].n_unique() > 1:
            both = pl.concat([clean, rows])
            there = set(rows["phase"])
            charts += [_chart(both, str(attack), phase) for phase in ("trained", "defended") if phase in there]
    if not charts:
        missing = "One epsilon was evaluated: run with --epsilons 0,0.01,0.02,0.05,0.1 to record more."
        return Section("epsilons", title, (missing,))
    text = "Accuracy on attacked test images, averaged over the members that trained, by depth."
    return Section("epsilons", title, (text,), tuple(charts))


def _chart(metrics: pl.DataFrame, attack: str, phase: str) -> Chart:
    of_phase = metrics.filter(pl.col("phase") == phase)
    means = of_phase.group_by("depth", "epsilon").agg(pl.col("accuracy").mean()).sort("depth", "epsilon")
    when = "before" if phase == "trained" else "after"
    series = lines_by_depth(means, "epsilon", "accuracy")
    last = ", ".join(f"{entry.label} {number(entry.points[-1].y)}" for entry in series)
    return Chart(
        f"epsilons-{file_part(attack)}-{phase}",
        f"Accuracy under {attack}, {when} the defence",
        f"At the largest epsilon, {float(str(means['epsilon'].max())):g}: {last}.",
        linear("epsilon", means["epsilon"], 0),
        linear("accuracy", [0.0, 1.0], 0, 1),
        series,
    )
