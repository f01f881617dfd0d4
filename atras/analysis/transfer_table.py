"""Images made on the networks of a run and tried on the others: what the others' images leave of each network."""

from __future__ import annotations

import textwrap

import polars as pl

from atras.errors import printable
from atras.results import Results
from atras.rounding import counted, decimals

from .attack_aims import attack_aim
from .text_table import Column, heading_lines, name_width, row_lines, width_of

KEYS = ("attack", "epsilon", "label_source", "target")
SHOWN = 10
"""Most networks of an attack that the terminal shows."""

_COLUMNS = (
    Column("own", "its own", "images"),
    Column("others", "others'", "mean"),
    Column("lowest", "lowest"),
)


def transfer_table(results: Results) -> pl.DataFrame:
    """A row an attack and network: its accuracy on adversarial images made on itself, and on those made on others.

    Of the networks that the run ends with, as sources and as targets; means over seeds, those of one candidate with
    another seed among the others.

    Args:
        results: a run.

    Returns:
        Columns attack, epsilon, label_source, target, hidden_layers, own (null where none were made on itself), others
        (mean over sources), lowest (by source), made_on (that source); the most robust first.
    """
    phase = results.final.phase
    rows = results.transfer.filter(pl.col("surrogate").is_null(), phase=phase, source_phase=phase)
    rows = rows.rename({"target_hidden_layers": "hidden_layers"})
    itself = (pl.col("source_hidden_layers") == pl.col("hidden_layers")) & (pl.col("source_seed") == pl.col("seed"))
    own = rows.filter(itself).group_by(*KEYS, "hidden_layers").agg(own=pl.col("accuracy").mean())
    means = rows.filter(~itself).group_by(*KEYS, "hidden_layers", "source_hidden_layers", maintain_order=True)
    by_source = means.agg(pl.col("accuracy").mean()).sort("accuracy", maintain_order=True)
    found = by_source.group_by(*KEYS, "hidden_layers", maintain_order=True).agg(
        others=pl.col("accuracy").mean(),
        lowest=pl.col("accuracy").first(),
        made_on=pl.col("source_hidden_layers").first(),
    )
    joined = found.join(own, on=[*KEYS, "hidden_layers"], how="left", nulls_equal=True, maintain_order="left")
    shown = (*KEYS, "hidden_layers", "own", "others", "lowest", "made_on")
    return joined.select(shown).sort([*KEYS, "lowest"], descending=[False] * 4 + [True], maintain_order=True)


def transfer_lines(results: Results, width: int = 80) -> list[str]:
    """`transfer_table` as plain text; nothing without a transfer between networks.

    Args:
        results: a run.
        width: columns of the terminal, at least 60.
    """
    frame = transfer_table(results).with_columns(aim=attack_aim())
    if frame.is_empty():
        return []
    title = "transfer: accuracy on adversarial images made on other networks of the run"
    lines = _wrapped(title, width)
    first = name_width([printable(name) for name in frame["hidden_layers"]], width, width - width_of(_COLUMNS) - 8)
    for (attack, epsilon, aim), rows in frame.group_by("attack", "epsilon", "aim", maintain_order=True):
        bound = "" if epsilon is None else f", epsilon {epsilon:g}"
        lines += _wrapped(printable(f"{attack}{bound}{aim}"), width)
        above, below = heading_lines("network", first, _COLUMNS)
        lines += [f"{above} made on", below]
        for row in rows.head(SHOWN).iter_rows(named=True):
            cells = ["-" if row[column.name] is None else decimals(row[column.name], 4) for column in _COLUMNS]
            *alone, figures = row_lines(printable(row["hidden_layers"]), first, cells, _COLUMNS, width)
            source = f" {printable(row['made_on'])}"
            fits = len(figures) + len(source) <= width
            lines += [*alone, figures + source] if fits else [*alone, figures, *_wrapped(f"  made on{source}", width)]
        if len(rows) > SHOWN:
            lines.append(f"and {counted(len(rows) - SHOWN, 'more network')}; --csv transfer has all pairs")
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)
