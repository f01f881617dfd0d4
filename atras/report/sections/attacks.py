"""The section of the attacks: robust accuracy under each, the worst of them for each image, and smallest changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from atras.analysis import attack_aim, attack_distances
from atras.registry import name_of
from atras.report.charts import Bar, Bars, Estimate, Table, group_estimate, number, rounded
from atras.report.section import Section
from atras.results import Results

from .attack_names import attack_name, file_part
from .bounds import epsilon_text, norm_text
from .depth_charts import depth_label
from .population import last_test_metrics, metric_estimate, phase_texts

_MEDIANS = {"l2": "median_l2", "linf": "median_linf"}
"""Where the size of a change stands, by norm."""


def attacks(results: Results) -> Section:
    """Robust accuracy by attack, the worst case last; of attacks without a bound the size of the change they need.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title, phases = "Worst case over attacks", phase_texts(results)
    metrics = _labelled(last_test_metrics(results), results.run["protocol"])
    bounded = metrics.filter(pl.col("epsilon").is_not_null())
    spellings = sorted(bounded["label"].unique(maintain_order=True), key=lambda attack: name_of(attack) == "worst")
    sizes = list(_size_charts(metrics.filter(pl.col("epsilon").is_null()), phases))
    text = []
    if len(spellings) < 2:
        text.append("One attack was evaluated: run with --attack fgsm --attack pgd to see the worst case over several.")
    else:
        text.append(
            "Worst: an image counts as correct only where no attack of the run, made on the network itself, turns it "
            "with a change of at most the run's epsilon."
        )
    if any(name_of(attack) == "worst" and "; partly " in attack for attack in spellings):
        text.append("Attacks named after “partly” may change more: of them only the images within that epsilon count.")
    if sizes:
        text.append(
            "An attack without a bound turns nearly every image, so that its accuracy says nothing: what counts is the "
            "size of the change that it needs, the median over images that were classified right before; larger is "
            "more robust."
        )
    figures = [*([_chart(results, bounded, spellings, phases)] if len(spellings) > 1 else []), *sizes]
    return Section("attacks", title, tuple(text), tuple(figures), _distance_tables(results))


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
    spelled = pl.col("epsilon").map_elements(epsilon_text, pl.String)
    parts = [
        pl.col("attack"),
        pl.when(~own).then(pl.format(", epsilon {}", spelled)).otherwise(pl.lit("")),
        attack_aim(),
    ]
    attacks = metrics.filter((attack_name() != "none") & (own | ~(curve | (attack_name() == "fgsm"))))
    return attacks.with_columns(label=pl.concat_str(parts))


def _chart(results: Results, metrics: pl.DataFrame, spellings: list[str], phases: Mapping[str, str]) -> Bars:
    rows = []
    for attack in spellings:
        own = metrics.filter(pl.col("label") == attack)
        marks = [metric_estimate(results, own.filter(pl.col("phase") == phase)) for phase in phases]
        rows.append(Bar(attack, "", marks=tuple(marks)))
    return Bars(
        "attacks",
        "Robust accuracy by attack",
        _conclusion(rows, list(phases.values())),
        "accuracy",
        tuple(rows),
        marks=tuple(phases.values()),
        of=("attack", ""),
    )


def _conclusion(rows: list[Bar], phases: list[str]) -> str:
    """Which attack by itself takes most of the last networks, and what the worst case leaves."""
    lasts = [(row.marks[-1].mean, row.name) for row in rows if row.marks[-1].mean is not None]
    # One at another epsilon takes more or less for that alone.
    single = [(mean, name) for mean, name in lasts if name_of(name) != "worst" and ", epsilon " not in name]
    worst = [mean for mean, name in lasts if name_of(name) == "worst"]
    if not single:
        return "No attack has a figure."
    least, name = min(single)
    beyond = f"; the worst case over all leaves {rounded(worst[0])}" if worst else ""
    return f"{phases[-1].capitalize()}, {name} takes most and leaves {rounded(least)}{beyond}."


def _size_charts(metrics: pl.DataFrame, phases: Mapping[str, str]) -> Iterator[Bars]:
    """For each attack without a bound, candidate by candidate, the median change of the images that it turned."""
    for (label, norm), rows in metrics.group_by("label", "norm", maintain_order=True):
        column = _MEDIANS.get(str(norm), "median_l2")
        known = rows.drop_nulls(column)
        if known.is_empty():
            continue
        bars = [
            Bar(name, depth_label(depth), marks=tuple(_size(own, column, phase) for phase in phases))
            for (name, depth), own in known.group_by("hidden_layers", "depth", maintain_order=True)
        ]
        bars.sort(key=lambda bar: (int(bar.group.split()[0]), -(bar.marks[-1].mean or 0.0)))
        unit = norm_text(column.removeprefix("median_"))
        yield Bars(
            f"size-{file_part(str(label))}",
            f"Size of the change that {label} needs",
            _size_conclusion(known, column, list(phases)),
            f"median size of the change ({unit})",
            tuple(bars),
            marks=tuple(phases.values()),
            most=max(mark.mean or 0.0 for bar in bars for mark in bar.marks),
        )


def _size(own: pl.DataFrame, column: str, phase: str) -> Estimate:
    rows = own.filter(pl.col("phase") == phase)
    return group_estimate(rows, column) if len(rows) else Estimate(None)


def _size_conclusion(rows: pl.DataFrame, column: str, phases: list[str]) -> str:
    means = dict(rows.group_by("phase").agg(pl.col(column).mean()).iter_rows())
    first, last = means.get(phases[0]), means.get(phases[-1])
    if first is None or last is None or len(phases) == 1:
        return f"The median change is {rounded(last if last is not None else first)} on average."
    change = "larger" if last > first else "smaller"
    return (
        f"The defence makes the change that is needed {change}: {rounded(first)} before it, {rounded(last)} after it."
    )
