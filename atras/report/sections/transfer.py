"""The section of the transfer: accuracy of each candidate on the adversarial images of each other."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from atras.analysis import attack_aim
from atras.report.charts import HeatMap, rounded
from atras.report.section import Section
from atras.results import Results
from atras.rounding import counted

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
    last = list(phase_texts(results).values())[-1].split()[0]
    for (attack,), frame in _labelled(pairs, results.run["protocol"].get("epsilon")).group_by(
        "label", maintain_order=True
    ):
        made = _heat_maps(frame, str(attack), names, phase_texts(results))
        maps += made
        if ", from other seeds" not in str(attack):  # whose diagonal is of copies
            maps += _less_than_own([each for each in made if each.name.endswith(f"-{last}")])
    return Section("transfer", title, tuple(text), tuple(maps), detail=True)


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


def _less_than_own(maps: list[HeatMap]) -> list[HeatMap]:
    """What targets keep on others' images less what they keep on their own: below 0 their own attack is the weaker."""
    made = []
    for each in maps:
        values = next(iter(each.layers.values()))
        own = [values[index][index] for index in range(len(values))]
        if any(value is None for value in own):
            continue
        less = tuple(
            tuple(None if value is None else value - (own[column] or 0.0) for column, value in enumerate(row))
            for row in values
        )
        span = max((abs(value) for row in less for value in row if value is not None), default=0.0) or 0.1
        named = "accuracy less own white-box"
        made.append(
            HeatMap(
                f"{each.name}-less-own",
                f"{each.title}: less than own white-box",
                _less_conclusion(less, each.names),
                each.names,
                {named: less},
                value=named,
                span=span,
            )
        )
    return made


def _less_conclusion(less: Accuracies, names: tuple[str, ...]) -> str:
    """Which targets lose more to others' images than to their own."""
    lost = {names[column]: value for row in less for column, value in enumerate(row) if value is not None and value < 0}
    if not lost:
        return "Below 0, others' images turn more than the network's own, a sign of masked gradients: no target is."
    worst = min(value for row in less for value in row if value is not None)
    return (
        f"Below 0, others' images turn more than the network's own, a sign of masked gradients: "
        f"{counted(len(lost), 'target')} of {len(names)}, by at most {rounded(-worst)}."
    )


def _summary(values: Accuracies, own: str) -> str:
    cells = [(row, column, value) for row, line in enumerate(values) for column, value in enumerate(line)]
    parts = {
        own: [value for row, column, value in cells if value is not None and row == column],
        "from smaller to larger": [value for row, column, value in cells if value is not None and row < column],
        "from larger to smaller": [value for row, column, value in cells if value is not None and row > column],
    }
    means = {text: sum(known) / len(known) for text, known in parts.items() if known}
    there = {text: mean for text, mean in means.items() if text != own}
    if not there or own not in means:
        return f"Targets keep {rounded(next(iter(means.values()), None))} on average."
    kept = max(there, key=lambda text: there[text])
    return f"Attacks transfer least {kept}: targets keep {rounded(there[kept])}, against {rounded(means[own])} {own}."
