"""Networks without a defence, one by one: clean accuracy, accuracy under each attack, and what each part of it took."""

from __future__ import annotations

import textwrap
from typing import Any

import polars as pl

from atras.attacks import ATTACKS
from atras.errors import InputError, printable
from atras.registry import name_of
from atras.results import Results
from atras.rounding import counted, decimals

from .attack_aims import attack_aim
from .statistics import members_interval, metric_terms, ordered

KEYS = ("attack", "norm", "epsilon", "label_source", "target")

_SCHEMA = {
    "hidden_layers": pl.String, "parameters": pl.Int64, "status": pl.String, "attack": pl.String, "label": pl.String,
    "accuracy": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "seeds": pl.Int64,
    "parts": pl.String,
}  # fmt: skip


def network_table(results: Results) -> pl.DataFrame:
    """A row a network and figure of it, as its last phase left it: without an attack, under each, and the worst case.

    Args:
        results: a run.

    Returns:
        Columns hidden_layers, parameters, status (of the worst seed), attack (as in `metrics`), label (with all that
        tells it from other attacks), accuracy (mean over seeds), low and high (95 %: of seeds and images, with one
        seed Wilson's of the images), n (images), seeds, parts (what an attack in several parts left after each;
        empty where it has none, or no outcomes were kept). A network that diverged has one row without figures.
    """
    rows = []
    labelled = _labelled(results)
    outcomes = results.outcomes.filter(mode="white-box", phase=results.final.phase)
    of_candidates = outcomes.partition_by("hidden_layers", as_dict=True)
    for candidate in results.candidate_means().select("hidden_layers", "parameters", "status").rows():
        name = candidate[0]
        own = labelled.filter(hidden_layers=name)
        if own.is_empty():
            rows.append((*candidate, "none", "clean", None, None, None, None, 0, ""))
        # The run's own epsilon is measured before the others.
        place = pl.col("place").min().over([key for key in KEYS if key != "epsilon"])
        in_order = own.with_row_index("place").sort(place, "epsilon", maintain_order=True)
        for _, found in in_order.group_by(*KEYS, maintain_order=True):
            first = found.row(0, named=True)
            n = first["n"]
            mean, *ends = members_interval(found, "accuracy", metric_terms(results, found), n)
            parts = _parts(of_candidates.get((name,), outcomes.clear()), first)
            rows.append((*candidate, first["attack"], first["label"], mean, *ends, n, len(found), parts))
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _labelled(results: Results) -> pl.DataFrame:
    """The final figures on test images, each with all that tells it from the others in a column `label`."""
    epsilon = results.run["protocol"].get("epsilon")
    rows = results.metrics.filter(
        pl.col("epoch").is_null(), pl.col("mode") != "static", split="test", phase=results.final.phase
    )
    own = pl.col("epsilon").is_null() | ((pl.col("norm") == "linf") & (pl.col("epsilon") == epsilon))
    bound = pl.when(own).then(pl.lit("")).otherwise(pl.format(", {} {}", "norm", "epsilon"))
    named = pl.concat_str(pl.col("attack"), bound, attack_aim())
    worst = pl.col("attack").str.starts_with("worst(")
    label = pl.when(pl.col("attack") == "none").then(pl.lit("clean")).when(worst).then(pl.lit("worst case"))
    return rows.with_columns(label=label.otherwise(named))


def _parts(outcomes: pl.DataFrame, row: dict[str, object]) -> str:
    """What is left after each part of an attack, over all seeds; empty where that is not known.

    Args:
        outcomes: of the candidate's networks as they are at the end, under attacks on themselves.
        row: of `metrics`.
    """
    spelled = str(row["attack"])
    try:
        names = ATTACKS.parse(spelled).part_names if name_of(spelled) in ATTACKS else ()
    except InputError:
        names = ()
    if not names or outcomes.is_empty():
        return ""
    own = outcomes.filter(**{key: row[key] for key in KEYS})
    if own.is_empty():
        return ""
    left = float(str(own["correct"].mean()))
    took = [float(str((~own["correct"] & (own["part"] == name).fill_null(False)).mean())) for name in names]
    after = [left + sum(took[place + 1 :]) for place in range(len(names))]
    return ", ".join(f"{name} {decimals(share, 4)}" for name, share in zip(names, after, strict=True))


def network_lines(results: Results, width: int = 80) -> list[str]:
    """`network_table` as plain text, a block for each network, the most robust first.

    Args:
        results: a run.
        width: columns of the terminal, at least 60.
    """
    best = ordered(results).select("hidden_layers")
    frame = best.join(network_table(results), on="hidden_layers", maintain_order="left_right")
    room = max(width, 60) - 30
    counts = frame["n"].drop_nulls().unique().to_list()
    images = f" on {counted(counts[0], 'test image')}" if len(counts) == 1 else ""
    several = int(frame["seeds"].max() or 0) > 1  # type: ignore[arg-type]
    over = "means, over seeds and images" if several else "Wilson"
    epsilon = results.run["protocol"].get("epsilon")
    within = "" if epsilon is None else f"; where nothing else is said, within linf {epsilon:g} of the image"
    lines = textwrap.wrap(f"accuracy{images}, with 95 % intervals ({over}){within}", width, subsequent_indent="  ")
    for (name, count, status), rows in frame.group_by("hidden_layers", "parameters", "status", maintain_order=True):
        lines += ["", printable(f"{name}: {count} parameters{'' if status == 'trained' else f', {status}'}")]
        for row in rows.iter_rows(named=True):
            lines += _figure_lines(row, room)
    return lines


def _figure_lines(row: dict[str, Any], room: int) -> list[str]:
    """A figure beside its name, and what the parts of its attack left."""
    label = printable(str(row["label"]))
    pieces = [label[start : start + room - 2] for start in range(0, len(label), room - 2)]
    figure = "-" if row["accuracy"] is None else decimals(row["accuracy"], 4)
    ends = "" if row["low"] is None else f"{decimals(row['low'], 4)} to {decimals(row['high'], 4)}"
    lines = [*(f"  {piece}" for piece in pieces[:-1]), f"  {pieces[-1]:<{room - 2}} {figure:>8}  {ends}".rstrip()]
    left = textwrap.wrap(f"left after {row['parts']}", room + 30, initial_indent="    ", subsequent_indent="      ")
    return [*lines, *left] if row["parts"] else lines
