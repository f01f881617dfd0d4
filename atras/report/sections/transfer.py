"""The section of the transfer: accuracy of each candidate on the adversarial images of each other."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from atras.analysis import attack_aim
from atras.report.charts import HeatMap, number
from atras.report.section import Section
from atras.results import Results

from .attack_names import file_part
from .population import entries, evenly_chosen, phase_texts

MOST_NAMES = 64
"""Candidates that a transfer map shows."""

Accuracies = tuple[tuple[float | None, ...], ...]


def transfer(results: Results) -> Section:
    """Maps of the accuracy of targets on the adversarial images of sources, for each attack and phase.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title = "Transfer of attacks"
    pairs = results.transfer.filter(pl.col("surrogate").is_null())
    if pairs.is_empty():
        return Section("transfer", title, ("No transfer matrix: run with --transfer to record one.",))
    there = set(pairs["source_hidden_layers"]) | set(pairs["target_hidden_layers"])
    names = [row.name for row in sorted(entries(results), key=lambda row: row.parameters) if row.name in there]
    text = [
        "Accuracy of a target on the adversarial test images of a source, averaged over seeds. Both are ordered by "
        "parameters, the smallest first: above the diagonal, attacks go from smaller to larger networks."
    ]
    if len(names) > MOST_NAMES:
        text.append(f"Shown are {MOST_NAMES} of {len(names)} candidates, evenly chosen by size.")
        names = evenly_chosen(names, MOST_NAMES)
    maps: list[HeatMap] = []
    for (attack,), frame in _labelled(pairs, results.run["protocol"].get("epsilon")).group_by(
        "label", maintain_order=True
    ):
        maps += _heat_maps(frame, str(attack), names, phase_texts(results))
    return Section("transfer", title, tuple(text), tuple(maps))


def _labelled(pairs: pl.DataFrame, epsilon: float | None) -> pl.DataFrame:
    """Pairs with all that tells one map from another in a column `label`."""
    own = pl.col("epsilon").is_null() | (pl.col("epsilon") == pl.lit(epsilon, pl.Float64))
    parts = [
        pl.col("attack"),
        pl.when(~own).then(pl.format(", epsilon {}", "epsilon")).otherwise(pl.lit("")),
        attack_aim(),
        pl.when(pl.col("source_seed") != pl.col("seed")).then(pl.lit(", from other seeds")).otherwise(pl.lit("")),
    ]
    return pairs.with_columns(label=pl.concat_str(parts))


def _heat_maps(frame: pl.DataFrame, attack: str, names: list[str], phases: Mapping[str, str]) -> list[HeatMap]:
    pair = ["source_hidden_layers", "target_hidden_layers"]
    layers: dict[str, Accuracies] = {}
    for phase, label in phases.items():
        means = frame.filter(pl.col("phase") == phase).group_by(pair).agg(pl.col("accuracy").mean())
        by_pair = {(source, target): value for source, target, value in means.iter_rows()}
        if by_pair:
            layers[label] = tuple(tuple(by_pair.get((source, target)) for target in names) for source in names)
    return [
        HeatMap(
            f"transfer-{file_part(attack)}-{label.split()[0]}",
            f"{attack}, {label}",
            _summary(values, "on copies of themselves" if "from other seeds" in attack else "on themselves"),
            tuple(names),
            {label: values, **layers},
        )
        for label, values in layers.items()
    ]


def _summary(values: Accuracies, own: str) -> str:
    cells = [(row, column, value) for row, line in enumerate(values) for column, value in enumerate(line)]
    parts = {
        own: [value for row, column, value in cells if value is not None and row == column],
        "from smaller to larger": [value for row, column, value in cells if value is not None and row < column],
        "from larger to smaller": [value for row, column, value in cells if value is not None and row > column],
    }
    means = [f"{text} {number(sum(known) / len(known))}" for text, known in parts.items() if known]
    return f"Mean accuracy of targets: {', '.join(means)}."
