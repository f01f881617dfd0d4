"""The section of black-box attacks: defended networks on images that were made on others."""

from __future__ import annotations

import polars as pl

from atras.analysis import attack_aim, masked, source_means
from atras.analysis import black_box as black_box_rows
from atras.report.charts import Table, number
from atras.report.section import Section
from atras.results import Results

NAMED = 5
"""Most networks that the caution names."""


def black_box(results: Results) -> Section:
    """For each attack a table of defended candidates, by what its images were made on, and what follows from it.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title, frame = "Black-box attacks", black_box_rows(results)
    if frame.is_empty():
        missing = (
            'No black-box attack: run with --seeds 0-1 and --attack "pgd(surrogate=independent)", and the same with '
            "surrogate=undefended and surrogate=undefended:independent, to record them."
        )
        return Section("black_box", title, (missing,))
    text = [
        "Accuracy of defended networks on adversarial test images made on other networks, by someone who does not have "
        "the attacked one, averaged over seeds. Independent copy: trained and defended likewise, with another seed. "
        "Natural twin: the network before its defence. Independent natural: another seed, before its defence."
    ]
    tables = []
    for (label,), rows in _labelled(frame).group_by("label", maintain_order=True):
        tables.append(_table(str(label), rows))
        text.append(_conclusion(str(label), rows))
    return Section("black_box", title, tuple(text), tables=tuple(tables))


def _labelled(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows with all that tells one attack from another in a column `label`."""
    parts = [
        pl.col("attack"),
        pl.format(", epsilon {}", "epsilon").fill_null(""),
        attack_aim(),
    ]
    return frame.with_columns(label=pl.concat_str(parts))


def _table(label: str, rows: pl.DataFrame) -> Table:
    """A row a candidate, a column for each source."""
    sources = rows["source"].unique(maintain_order=True).to_list()
    means = rows.group_by("hidden_layers", maintain_order=True).agg(
        pl.col("white_box").mean(),
        *(pl.col("accuracy").filter(pl.col("source") == source).mean().alias(f"on {source}") for source in sources),
    )
    cells = tuple((name, *map(number, figures)) for name, *figures in means.iter_rows())
    return Table(label, ("hidden layers", "white-box", *sources), cells, sortable=len(cells) > 1)


def _conclusion(label: str, rows: pl.DataFrame) -> str:
    """Whether the attack on the network itself is the strongest, in a sentence, and the networks where it is not."""
    (_, own, some), *by_source = source_means(rows)
    figures = [("white-box", own, some), *by_source]
    told = (f"{source} {number(mean)}{f' ({members})' if members else ''}" for source, mean, members in figures)
    head = f"{label}: {', '.join(told)}."
    if own is None:
        return f"{head} Without the same attack on the networks themselves nothing can be said of masked gradients."
    if rows["target"][0] != "none" or rows["label_source"][0] != "true":
        return f"{head} Only attacks at the true label tell of masked gradients."
    found = masked(rows).select("hidden_layers", "seed").unique(maintain_order=True).rows()
    if not found:
        return f"{head} No network is turned more often by images made elsewhere than by its own."
    names = ", ".join(f"{name} (seed {seed})" for name, seed in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return (
        f"{head} Caution: images made elsewhere turn more than the white-box attack, a sign of masked gradients, on "
        f"{names}{more}."
    )
