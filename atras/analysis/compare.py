"""Two runs side by side: what the same members, paired, gained or lost from one to the other."""

from __future__ import annotations

import textwrap

import polars as pl

from atras.errors import InputError, printable
from atras.results import ACCURACIES, Results

from .images import compare_images
from .provenance import computing_differences, data_differences, notices, other_test_images, require_whole
from .statistics import bootstrap_mean, holm, sign_flip_test

SHOWN = 10
"""Most members whose lost images are listed."""

COLUMNS = (*ACCURACIES, "recovery_static", "recovery_white_box")


def compare(a: Results, b: Results, *, partial: bool = False) -> pl.DataFrame:
    """Paired differences of every accuracy and recovery, over the candidates and seeds that both runs have.

    A pair is a member of both runs with a figure in both; all statuses count. Pairs are resampled, and their signs
    flipped, as if independent; those of one seed share their batch order, so with few seeds the true uncertainty is
    somewhat larger. Where a run's seeds differ but its protocol does not, this measures the seed.

    On different test images nothing is tested: a difference is then also that of the images, which all pairs share, so
    that no number of members tells it from chance.

    Args:
        a, b: two runs.
        partial: also of runs that are not finished, by what is there.

    Returns:
        Columns column, members, mean_a, mean_b, difference (b - a), low, high (bootstrap, 95 %), p (sign flips) and
        p_holm (corrected for the number of columns); the last four are null where the test images differ. Columns
        without a pair are left out.

    Raises:
        InputError: if the runs have no member in common, or groups are missing and `partial` is not set.
    """
    for run in (a, b):
        require_whole(run, partial)
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
    frame = frame.with_columns(pl.Series("p_holm", holm(frame["p"].to_list()), pl.Float64))
    if other_test_images(a, b):
        return frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("low", "high", "p", "p_holm"))
    return frame


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


def difference_lines(a: Results, b: Results) -> list[str]:
    """What two runs do not share, the data first, as plain text; none where all is alike."""
    parts = {"THE DATA DIFFER:": [f"  {line}" for line in data_differences(a, b)]}
    if other_test_images(a, b):
        parts["THE TEST IMAGES DIFFER: nothing is tested, as they alone may make a difference"] = [""]
    parts["they were computed differently:"] = [f"  {line}" for line in computing_differences(a, b)]
    parts["the protocols differ:"] = [_warning(name, *values) for name, values in protocol_differences(a, b).items()]
    lines = []
    for heading, own in parts.items():
        if own:
            lines += [heading, *(_short(line) for line in own if line)]
    return lines


def compare_lines(a: Results, b: Results, *, partial: bool = False) -> list[str]:
    """`compare` as plain text within 80 columns, behind all that the runs do not share."""
    frame = compare(a, b, partial=partial)
    first = [f"{name}: {line}" for name, run in (("A", a), ("B", b)) for line in notices(run)]
    lines = [row for line in first for row in textwrap.wrap(line, 80)] + difference_lines(a, b)
    lines += [""] if lines else []
    members = max(frame["members"], default=0)
    lines += [
        f"{members} members in common; differences are B - A, intervals 95 %",
        f"{'column':<32} {'A':>6} {'B':>6} {'B - A':>7} {'low':>7} {'high':>7} {'p Holm':>7}",
    ]
    for row in frame.iter_rows(named=True):
        ends = ["-" if row[end] is None else f"{row[end]:+.4f}" for end in ("low", "high")]
        p_value = "-" if row["p_holm"] is None else f"{row['p_holm']:.4f}"
        lines.append(
            f"{row['column']:<32} {row['mean_a']:>6.3f} {row['mean_b']:>6.3f} {row['difference']:>+7.4f} "
            f"{ends[0]:>7} {ends[1]:>7} {p_value:>7}"
        )
    return lines + _image_lines(a, b)


def _image_lines(a: Results, b: Results) -> list[str]:
    """What the members lose image by image, those that differ most first; nothing where images are others."""
    known = all(run.run.get("data") and len(run.outcomes) for run in (a, b))
    if not known or other_test_images(a, b):
        return []
    frame = compare_images(a, b).sort("p", maintain_order=True)
    more = [f"the {SHOWN} members that differ most, of {len(frame)}"] if len(frame) > SHOWN else []
    lines = [
        "",
        "test images lost, each run under all of its own attacks",
        *more,
        f"{'member':<42} {'both':>6} {'only A':>6} {'only B':>6} {'p Holm':>7}",
    ]
    for row in frame.head(SHOWN).iter_rows(named=True):
        name = _short(f"{row['hidden_layers']} (seed {row['seed']})")[:42]
        lines.append(f"{name:<42} {row['both']:>6} {row['only_a']:>6} {row['only_b']:>6} {row['p_holm']:>7.4f}")
    return lines


def _warning(name: str, left: object, right: object) -> str:
    if isinstance(left, list) and isinstance(right, list):
        shared = len([value for value in left if value in right])
        return f"  {name}: {len(left)} and {len(right)}, {shared} in common"
    return f"  {name}: {left} and {right}"


def _short(line: str) -> str:
    line = printable(line)
    return line if len(line) <= 80 else f"{line[:77]}..."
