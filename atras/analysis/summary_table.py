"""A run's summary as text for people: networks from best to worst, means by depth, and what else was measured."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import polars as pl

from atras.errors import printable
from atras.results import Results
from atras.rounding import counted, decimals

from .attack_distances import distance_table_lines
from .black_box import black_box_lines
from .confirmed import confirmed_lines
from .network_table import network_lines
from .paper_tables import distance_lines
from .provenance import notices
from .ranked_table import depth_lines, ranked_lines
from .transfer_table import transfer_lines
from .unequal_training import unequal_training
from .winner import winner_lines

NARROWEST = 60
"""Columns below which nothing is laid out."""


def summary_lines(results: Results, width: int = 80, *, rank_by: str = "accuracy") -> list[str]:
    """Networks from best to worst, means by depth, distances, transfer, the paper's distance, and the winner.

    Args:
        results: a run's frames.
        width: columns of the terminal; anything below 60 counts as 60.
        rank_by: `accuracy`, or `balanced` for its mean over classes.

    Raises:
        InputError: as `robust_column`.
    """
    width = max(width, NARROWEST)
    told = [row for line in notices(results) for row in textwrap.wrap(line, width)]
    variants = [results.of_variant(name) for name in results.variants["variant"]]
    results = results.flattened
    several = results.table["hidden_layers"].n_unique() > 1
    parts = [
        told,
        [
            *(ranked_lines(results, width, rank_by=rank_by) if several or results.defends else []),
            *_notes(results, width),
        ],
        *(_of_variant(one, width, results.defends) for one in variants),
        _unequal(variants, width),
        distance_table_lines(results, width),
        transfer_lines(results, width),
        black_box_lines(results, width),
        distance_lines(results, width=width),
        confirmed_lines(results, width),
        winner_lines(results, rank_by=rank_by, width=width) if several else [],
    ]
    return _joined(parts)


def _of_variant(results: Results, width: int, defends: bool) -> list[str]:
    """Means by depth, or of a run without a defence the networks, under the variant's name where there are axes."""
    lines = depth_lines(results, width) if defends else network_lines(results, width)
    return [*textwrap.wrap(printable(results.variant.name), width), *lines] if lines else []


def _unequal(variants: Sequence[Results], width: int) -> list[str]:
    """What is said where the variants' defences trained unequally long, under their names."""
    return textwrap.wrap(unequal_training({printable(one.variant.name): one for one in variants}), width)


def _joined(parts: Iterable[list[str]]) -> list[str]:
    """Parts of the summary with an empty line between them."""
    lines: list[str] = []
    for part in parts:
        lines += [*([""] if lines and part else []), *part]
    return lines


def _notes(results: Results, width: int) -> list[str]:
    """What is to be known of all figures."""
    lines = []
    if results.majority_share is not None:
        lines.append(f"baseline: the most frequent class is {decimals(results.majority_share, 4)} of the test images")
    seeds = results.table["seed"].n_unique()
    if seeds > 1:
        lines.append(f"means over {seeds} seeds; the status is that of the worst seed")
    failed = results.table.filter(pl.col("status") != "trained")["hidden_layers"].n_unique()
    if failed and seeds > 1:
        lines.append(
            f"a seed that is dead or diverged counts 0 in the ranking, as of {counted(failed, 'network')} here"
        )
    return [row for line in lines for row in textwrap.wrap(line, width, subsequent_indent="  ")]


def caution_lines(results: Results, width: int = 80) -> list[str]:
    """What makes a run's figures say less than they seem to, as plain text; nothing where nothing does.

    Args:
        results: a run's frames.
        width: as in `summary_lines`.
    """
    told = [printable(str(line)) for line in results.run.get("warnings", ())]
    rows = [row for line in told for row in textwrap.wrap(line, max(width, NARROWEST), subsequent_indent="  ")]
    return ["", "cautions", *rows] if rows else []
