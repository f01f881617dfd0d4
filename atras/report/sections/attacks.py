"""The section of the attacks: robust accuracy under each, and under the worst of them for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from atras.analysis import attack_aim, attack_distances
from atras.registry import name_of
from atras.report.charts import Chart, Point, Series, Table, bootstrap_mean, categories, linear, number
from atras.report.section import Section
from atras.results import Results

from .attack_names import attack_name
from .population import last_test_metrics, phase_texts


def attacks(results: Results) -> Section:
    """Robust accuracy by attack, the worst case last.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title = "Worst case over attacks"
    metrics = _labelled(last_test_metrics(results), results.run["protocol"])
    spellings = sorted(metrics["label"].unique(maintain_order=True), key=lambda attack: name_of(attack) == "worst")
    if len(spellings) < 2:
        missing = "One attack was evaluated: run with --attack fgsm --attack pgd to see the worst case over several."
        return Section("attacks", title, (missing,), tables=_distance_tables(results))
    text = (
        "Worst: an image counts as correct only where no attack of the run, made on the network itself, turns it with "
        "a change of at most the run's epsilon."
    )
    if any(name_of(attack) == "worst" and "; partly " in attack for attack in spellings):
        text += " Attacks named after “partly” may change more: of them only the images within that epsilon count."
    chart = _chart(metrics, spellings, phase_texts(results))
    return Section("attacks", title, (text,), (chart,), _distance_tables(results))


def _distance_tables(results: Results) -> tuple[Table, ...]:
    """The distances of the adversarial images, with the number of images that they are of; none of older rows."""
    phases = phase_texts(results)
    frame = _labelled(attack_distances(results), results.run["protocol"])
    rows = tuple(
        (
            row["label"],
            phases[row["phase"]],
            f"{row['attacked']} of {row['n']}",
            *(number(row[figure]) for figure in ("median_l2", "mean_l2", "median_linf", "mean_linf")),
        )
        for row in frame.iter_rows(named=True)
    )
    columns = ("attack", "network", "images", "median l2", "mean l2", "median linf", "mean linf")
    title = "Distance of adversarial images, over those classified right before that the attack changed"
    return (Table(title, columns, rows),) if rows else ()


def _labelled(metrics: pl.DataFrame, protocol: Mapping[str, Any]) -> pl.DataFrame:
    """The attacks, each with all that tells it from the others in a column `label`; without curves in `linf`."""
    own = pl.col("epsilon").is_null() | (pl.col("epsilon") == pl.lit(protocol.get("epsilon"), pl.Float64))
    curve = (pl.col("norm") == "linf") & pl.col("epsilon").is_in(list(map(float, protocol.get("epsilons", ()))))
    parts = [
        pl.col("attack"),
        pl.when(~own).then(pl.format(", epsilon {}", "epsilon")).otherwise(pl.lit("")),
        attack_aim(),
    ]
    attacks = metrics.filter((attack_name() != "none") & (own | ~(curve | (attack_name() == "fgsm"))))
    return attacks.with_columns(label=pl.concat_str(parts))


def _chart(metrics: pl.DataFrame, spellings: list[str], phases: Mapping[str, str]) -> Chart:
    points: dict[str, list[Point]] = {label: [] for label in phases.values()}
    for index, attack in enumerate(spellings):
        own = metrics.filter(pl.col("label") == attack)
        for side, (label, phase) in enumerate(zip(points, phases, strict=True)):
            values = own.filter(pl.col("phase") == phase)["accuracy"].drop_nulls().to_list()
            if values:
                mean, low, high = bootstrap_mean(values)
                points[label].append(Point(index + 0.16 * (side - 0.5), mean or 0.0, low, high))
    last = list(points)[-1]
    parts = [f"{spellings[round(point.x)]} {number(point.y)}" for point in points[last]]
    return Chart(
        "attacks",
        "Robust accuracy by attack",
        f"Means over the members that trained, with 95 % intervals. {last.capitalize()}: {', '.join(parts)}.",
        categories("attack", spellings),
        linear("accuracy", [0.0, 1.0], 0, 1),
        tuple(Series(label, index, tuple(marks)) for index, (label, marks) in enumerate(points.items())),
    )
