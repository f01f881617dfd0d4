"""The attacks: their strength, what they do to other networks, and the worst of them."""

from __future__ import annotations

import polars as pl

from atras.report.charts.heatmap import HeatMap
from atras.report.charts.intervals import bootstrap_mean
from atras.report.charts.plots import Chart, Point, Series
from atras.report.charts.scales import categories, linear, number
from atras.results.results import Results

from . import population as pop
from .population import Entry
from .section import Figure, Section, lines

MOST_NAMES = 64
"""Candidates that a transfer map shows."""


def epsilons(results: Results) -> Section:
    frame = pop.last_test_metrics(results).filter(pl.col("attack") != "worst")
    figures = []
    for attack in frame.filter(pl.col("attack") != "none")["attack"].unique(maintain_order=True):
        own = frame.filter(pl.col("attack") == attack)
        if own.filter(pl.col("epsilon") > 0)["epsilon"].n_unique() < 2:
            continue
        # Without perturbation an attacked image is the clean one.
        clean = frame.filter(pl.col("attack") == "none").with_columns(epsilon=0.0)
        both = pl.concat([clean, own.filter(pl.col("epsilon") > 0)])
        figures += [_epsilon_chart(both, attack, phase) for phase in ("trained", "defended") if _has(own, phase)]
    if not figures:
        missing = "One epsilon was evaluated: run with --epsilons 0,0.01,0.02,0.05,0.1 to record more."
        return Section("epsilons", "Strength of the attack", (missing,))
    text = "Accuracy on attacked test images, averaged over the members that trained, by depth."
    return Section("epsilons", "Strength of the attack", (text,), tuple(figures))


def _has(frame: pl.DataFrame, phase: str) -> bool:
    return bool((frame["phase"] == phase).any())


def _epsilon_chart(frame: pl.DataFrame, attack: str, phase: str) -> Chart:
    frame = frame.filter(pl.col("phase") == phase)
    means = frame.group_by("depth", "epsilon").agg(pl.col("accuracy").mean()).sort("depth", "epsilon")
    when = "before" if phase == "trained" else "after"
    series = lines(means, "epsilon", "accuracy")
    last = ", ".join(f"{entry.label} {number(entry.points[-1].y)}" for entry in series)
    return Chart(
        f"epsilons-{attack}-{phase}",
        f"Accuracy under {attack}, {when} the defence",
        f"At the largest epsilon, {float(str(means['epsilon'].max())):g}: {last}.",
        linear("epsilon", means["epsilon"], 0),
        linear("accuracy", [0.0, 1.0], 0, 1),
        series,
    )


def transfer(results: Results, rows: list[Entry]) -> Section:
    title = "Transfer of attacks"
    if results.transfer.is_empty():
        return Section("transfer", title, ("No transfer matrix: run with --transfer to record one.",))
    names = [row.name for row in sorted(rows, key=lambda row: row.parameters)]
    there = set(results.transfer["source_hidden_layers"]) | set(results.transfer["target_hidden_layers"])
    names = [name for name in names if name in there]
    text = [
        "Accuracy of a target on the adversarial test images of a source, averaged over seeds. Both are ordered by "
        "parameters, the smallest first: above the diagonal attacks go from smaller to larger networks."
    ]
    if len(names) > MOST_NAMES:
        text.append(f"Shown are {MOST_NAMES} of {len(names)} candidates, evenly chosen by size.")
        names = [names[index * (len(names) - 1) // (MOST_NAMES - 1)] for index in range(MOST_NAMES)]
    figures: list[Figure] = []
    for attack in results.transfer["attack"].unique(maintain_order=True):
        figures += _heat_maps(results.transfer.filter(pl.col("attack") == attack), attack, names)
    return Section("transfer", title, tuple(text), tuple(figures))


def _heat_maps(frame: pl.DataFrame, attack: str, names: list[str]) -> list[HeatMap]:
    pair = ["source_hidden_layers", "target_hidden_layers"]
    layers = {}
    for phase, label in (("trained", "before the defence"), ("defended", "after the defence")):
        means = frame.filter(pl.col("phase") == phase).group_by(pair).agg(pl.col("accuracy").mean())
        found = {(source, target): value for source, target, value in means.iter_rows()}
        if found:
            layers[label] = tuple(tuple(found.get((source, target)) for target in names) for source in names)
    maps = []
    for label, values in layers.items():
        order = {label: values, **layers}
        summary = _transfer_summary(values)
        maps.append(
            HeatMap(f"transfer-{attack}-{label.split()[0]}", f"{attack}, {label}", summary, tuple(names), order)
        )
    return maps


def _transfer_summary(values: tuple[tuple[float | None, ...], ...]) -> str:
    cells = [(row, column, value) for row, line in enumerate(values) for column, value in enumerate(line)]
    parts = {
        "on themselves": [value for row, column, value in cells if value is not None and row == column],
        "from smaller to larger": [value for row, column, value in cells if value is not None and row < column],
        "from larger to smaller": [value for row, column, value in cells if value is not None and row > column],
    }
    means = [f"{text} {number(sum(found) / len(found))}" for text, found in parts.items() if found]
    return f"Mean accuracy of targets: {', '.join(means)}."


def attacks(results: Results) -> Section:
    title = "Worst case over attacks"
    frame = pop.last_test_metrics(results)
    names = frame.filter(pl.col("attack") != "none")["attack"].unique(maintain_order=True).to_list()
    names = sorted(names, key=lambda name: name == "worst")
    if len(names) < 2:
        missing = "One attack was evaluated: run with --attack fgsm --attack pgd to see the worst case over several."
        return Section("attacks", title, (missing,))
    epsilon = results.run["protocol"].get("epsilon")
    found: dict[str, list[Point]] = {"before defence": [], "after defence": []}
    for index, name in enumerate(names):
        own = frame.filter(pl.col("attack") == name)
        # An attack without an epsilon of its own is not left out.
        own = own.filter(pl.col("epsilon") == epsilon) if (own["epsilon"] == epsilon).any() else own
        for side, (label, phase) in enumerate(zip(found, ("trained", "defended"), strict=True)):
            values = own.filter(pl.col("phase") == phase)["accuracy"].drop_nulls().to_list()
            if values:
                figure = bootstrap_mean(values)
                found[label].append(Point(index + 0.16 * (side - 0.5), figure.mean or 0.0, figure.low, figure.high))
    series = tuple(Series(label, index, tuple(points)) for index, (label, points) in enumerate(found.items()))
    parts = [f"{names[round(p.x)]} {number(p.y)}" for p in found["after defence"]]
    chart = Chart(
        "attacks",
        "Robust accuracy by attack",
        f"Means over the members that trained, with 95 % intervals. After the defence: {', '.join(parts)}.",
        categories("attack", names),
        linear("accuracy", [0.0, 1.0], 0, 1),
        series,
    )
    text = (
        "Worst: an image counts as correct only where it survives every attack of the run, made on the network itself."
    )
    return Section("attacks", title, (text,), (chart,))
