"""Two runs side by side: what the same members, paired, gained or lost from one to the other."""

from __future__ import annotations

import polars as pl

from atras.errors import InputError
from atras.results import ACCURACIES, Results

from .statistics import bootstrap_mean, holm, sign_flip_test

COLUMNS = (*ACCURACIES, "recovery_static", "recovery_white_box")


def compare(a: Results, b: Results) -> pl.DataFrame:
    """Paired differences of every accuracy and recovery, over the candidates and seeds that both runs have.

    A pair is a member of both runs with a figure in both; all statuses count. Pairs are resampled, and their signs
    flipped, as if independent; those of one seed share their batch order, so with few seeds the true uncertainty is
    somewhat larger. Where a run's seeds differ but its protocol does not, this measures the seed.

    Args:
        a, b: two runs.

    Returns:
        Columns column, members, mean_a, mean_b, difference (b - a), low, high (bootstrap, 95 %), p (sign flips) and
        p_holm (corrected for the number of columns). Columns without a pair are left out.

    Raises:
        InputError: if the runs have no member in common.
    """
    keys = ["hidden_layers", "seed"]
    pairs = a.table.join(b.table, on=keys, suffix="_b", maintain_order="left")
    if not len(pairs):
        raise InputError("compare: expected runs with a candidate and seed in common, found none; name other runs")
    rows = []
    for column in COLUMNS:
        both = pairs.select(a=column, b=f"{column}_b").drop_nulls()
        if len(both):
            difference = (both["b"] - both["a"]).to_list()
            means = (float(both["a"].to_numpy().mean()), float(both["b"].to_numpy().mean()))
            rows.append((column, len(both), *means, *bootstrap_mean(difference), sign_flip_test(difference)))
    frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    return frame.with_columns(pl.Series("p_holm", holm(frame["p"].to_list()), pl.Float64))


_SCHEMA = {
    "column": pl.String,
    "members": pl.Int64,
    "mean_a": pl.Float64,
    "mean_b": pl.Float64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
}


def protocol_differences(a: Results, b: Results) -> dict[str, tuple[object, object]]:
    """Fields of the protocols that differ, with both values; empty for equal protocols."""
    left, right = a.run["protocol"], b.run["protocol"]
    names = [*left, *(name for name in right if name not in left)]
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}


def compare_lines(a: Results, b: Results) -> list[str]:
    """`compare` as plain text within 80 columns, with a warning where the protocols differ."""
    frame = compare(a, b)
    lines = [_warning(name, *values) for name, values in protocol_differences(a, b).items()]
    lines = ["the protocols differ:", *lines, ""] if lines else []
    members = max(frame["members"], default=0)
    lines += [
        f"{members} members in common; differences are B - A, intervals 95 %",
        f"{'column':<32} {'A':>6} {'B':>6} {'B - A':>7} {'low':>7} {'high':>7} {'p Holm':>7}",
    ]
    for row in frame.iter_rows(named=True):
        ends = ["-" if row[end] is None else f"{row[end]:+.4f}" for end in ("low", "high")]
        lines.append(
            f"{row['column']:<32} {row['mean_a']:>6.3f} {row['mean_b']:>6.3f} {row['difference']:>+7.4f} "
            f"{ends[0]:>7} {ends[1]:>7} {row['p_holm']:>7.4f}"
        )
    return lines


def _warning(name: str, left: object, right: object) -> str:
    if isinstance(left, list) and isinstance(right, list):
        shared = len([value for value in left if value in right])
        return f"  {name}: {len(left)} and {len(right)}, {shared} in common"
    text = f"  {name}: {left} and {right}"
    return text if len(text) <= 80 else f"{text[:77]}..."
