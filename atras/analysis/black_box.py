"""Accuracy of defended networks on images that were made on others, beside that under the attack on themselves.

Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", tables 1 and 2.
"""

from __future__ import annotations

import textwrap

import polars as pl

from atras.errors import printable
from atras.evaluation import NOISE
from atras.results import Results
from atras.rounding import decimals

from .attack_aims import attack_aim

SOURCES = {
    "independent": "independent copy",
    "undefended": "natural twin",
    "undefended:independent": "independent natural",
}
"""By spelling, what a surrogate is called in the table; others by their spelling."""

KEYS = ("attack", "epsilon", "label_source", "target", "hidden_layers", "seed")


def black_box(results: Results) -> pl.DataFrame:
    """A row an attack, defended member and source of its images, over the members that trained.

    Attacks on a surrogate are taken, and of `--transfer` the pairs of one candidate.

    Args:
        results: a run.

    Returns:
        Columns attack, epsilon, label_source, target, hidden_layers, seed, source (`independent copy`, defended too and
        trained with another seed; `natural twin`, the network before its defence; `independent natural`, one of another
        seed before its defence; else the spelling of the surrogate), accuracy, and white_box (accuracy under the same
        attack made on the member itself; null where the run has none).
    """
    trained = results.table.filter(pl.col("status") == "trained").select("hidden_layers", "seed")
    rows = results.transfer.filter(pl.col("phase") == "defended").rename({"target_hidden_layers": "hidden_layers"})
    same = pl.col("source_hidden_layers") == pl.col("hidden_layers")
    natural, own = pl.col("source_phase") == "trained", pl.col("source_seed") == pl.col("seed")
    spelled = (
        pl.when(same & natural & own)
        .then(pl.lit("undefended"))
        .when(same & natural & ~own)
        .then(pl.lit("undefended:independent"))
        .when(same & (pl.col("source_phase") == "defended") & ~own)
        .then(pl.lit("independent"))
        .otherwise(pl.col("surrogate"))
    )
    found = rows.with_columns(source=spelled.replace(SOURCES)).filter(pl.col("source").is_not_null())
    means = found.group_by(*KEYS, "source", maintain_order=True).agg(pl.col("accuracy").mean())
    return means.join(_white_box(results, rows), on=KEYS, how="left", nulls_equal=True, maintain_order="left").join(
        trained, on=["hidden_layers", "seed"], how="semi", maintain_order="left"
    )


def _white_box(results: Results, rows: pl.DataFrame) -> pl.DataFrame:
    """Accuracy of defended members under attacks on themselves, from the metrics or else from the transfer."""
    own = results.metrics.filter(
        (pl.col("split") == "test") & (pl.col("mode") == "white-box") & pl.col("epoch").is_null(),
        pl.col("phase") == "defended",
    )
    itself = (pl.col("source_hidden_layers") == pl.col("hidden_layers")) & (pl.col("source_seed") == pl.col("seed"))
    diagonal = rows.filter(itself & (pl.col("source_phase") == "defended"))
    both = [frame.select(*KEYS, white_box="accuracy") for frame in (own, diagonal)]
    return pl.concat(both).unique(KEYS, keep="first", maintain_order=True)


def masked(frame: pl.DataFrame) -> pl.DataFrame:
    """Those rows of `black_box` whose images, made on another network, turn more than the member's own."""
    untargeted = (pl.col("target") == "none") & (pl.col("label_source") == "true")
    return frame.filter(untargeted & (pl.col("white_box") > pl.col("accuracy") + NOISE))


def source_means(rows: pl.DataFrame) -> list[tuple[str, float | None, str]]:
    """The means over members of one attack by what its images were made on, the white-box attack first.

    Args:
        rows: of `black_box`, of one attack.

    Returns:
        Source, accuracy, and `1 of 2 members` where not all members have it; nothing where all have, or none.
    """
    members = rows.unique(["hidden_layers", "seed"], maintain_order=True)
    figures = [
        ("itself (white-box)", members["white_box"]),
        *((str(source), own["accuracy"]) for (source,), own in rows.group_by("source", maintain_order=True)),
    ]
    told = []
    for source, values in figures:
        known = values.drop_nulls().to_list()
        some = f"{len(known)} of {len(members)} members" if 0 < len(known) < len(members) else ""
        told.append((source, sum(known) / len(known) if known else None, some))
    return told


def black_box_lines(results: Results, width: int = 80) -> list[str]:
    """Means over members of `black_box` as plain text; nothing without them.

    Args:
        results: a run.
        width: columns of the terminal, at least 60.
    """
    frame = black_box(results).with_columns(aim=attack_aim())
    if frame.is_empty():
        return []
    title = "accuracy of defended networks on images made on others, means over members"
    lines, room = textwrap.wrap(title, width, subsequent_indent="  "), min(width, 80) - 14
    for (attack, aim, epsilon), rows in frame.group_by("attack", "aim", "epsilon", maintain_order=True):
        bound = "" if epsilon is None else f", epsilon {epsilon:g}"
        name = printable(f"{attack}{bound}{aim}")
        lines += [name[start : start + width] for start in range(0, len(name), width)]
        for source, mean, members in source_means(rows):
            some = f" ({members})" if members else ""
            figure = "-" if mean is None else decimals(mean, 4)
            lines.append(f"  {printable(source)[: room - len(some)] + some:<{room}} {figure:>6}")
    return lines
