"""Two runs side by side: what the same members, paired, gained or lost from one to the other."""

from __future__ import annotations

import textwrap

import polars as pl

from atras.errors import InputError, printable
from atras.results import ACCURACIES, Results
from atras.rounding import decimals

from .images import compare_images, shared_phase
from .meanings import other_meaning
from .provenance import computing_differences, data_differences, notices, other_test_images, require_whole
from .statistics import Mean, column_terms, holm, independent_images, members_mean, p_text, seeds_note

SHOWN = 10
"""Most members whose lost images are listed."""

COLUMNS = (*ACCURACIES, "recovery_static", "recovery_white_box")

KEYS = ["hidden_layers", "seed"]


def compare(a: Results, b: Results, *, partial: bool = False) -> pl.DataFrame:
    """Paired differences of every accuracy and recovery, over the candidates and seeds that both runs have.

    A pair is a member of both runs with a figure in both; all statuses count. Pairs are no independent draws: those of
    a seed share its batch order and all share the test images. So what varies are seeds (`group_mean`) and images:
    paired where both runs kept outcomes, otherwise bounded by counts (`images_part`). One seed tells nothing of seeds,
    however many candidates: by their spread, seeds of one protocol differ in a quarter of all comparisons.

    Args:
        a, b: two runs on the same test images.
        partial: also of runs that are not finished, by what is there.

    Returns:
        Columns column, members, mean_a, mean_b, difference (b - a), low, high (95 %), p, note and p_holm (corrected for
        the number of columns). Where the runs mean different things by a column, its figures are null and the note
        says why; one seed has no p. Columns without a pair are left out.

    Raises:
        InputError: if the runs have other test images or no member in common, or groups are missing and `partial` is
            not set.
    """
    for run in (a, b):
        require_whole(run, partial)
    a, b = a.flattened, b.flattened
    if other_test_images(a, b):
        told = "; ".join(data_differences(a, b)[:1])
        raise InputError(
            f"compare: expected runs on the same test images, got others ({told}): a difference would be that of the "
            "images too; `atras report A B` shows both side by side"
        )
    pairs = a.table.join(b.table, on=KEYS, suffix="_b", maintain_order="left")
    if not len(pairs):
        raise InputError("compare: expected runs with a candidate and seed in common, found none; name other runs")
    rows: list[tuple[object, ...]] = []
    for column in COLUMNS:
        both = pairs.select(*KEYS, a=column, b=f"{column}_b").drop_nulls()
        if not len(both):
            continue
        reason = other_meaning(a, b, column)
        if reason:
            rows.append((column, len(both), *[None] * 6, f"not compared: {reason}"))
            continue
        difference = _difference(a, b, column, both)
        p_value = difference.p() if both["seed"].n_unique() > 1 else None
        means = (float(both["a"].to_numpy().mean()), float(both["b"].to_numpy().mean()))
        rows.append((column, len(both), *means, *difference.interval(), p_value, ""))
    frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    known = frame["p"].is_not_null()
    corrected = iter(holm(frame["p"].drop_nulls().to_list()))
    values = [next(corrected) if is_known else None for is_known in known]
    return frame.with_columns(pl.Series("p_holm", values, pl.Float64)).select(*_SCHEMA, "p_holm")


_SCHEMA = {
    "column": pl.String,
    "members": pl.Int64,
    "mean_a": pl.Float64,
    "mean_b": pl.Float64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "note": pl.String,
}


def _difference(a: Results, b: Results, column: str, both: pl.DataFrame) -> Mean:
    """Mean difference of the pairs, over seeds and test images."""
    rows = both.with_columns(difference=pl.col("b") - pl.col("a"))
    terms = [*column_terms(b, column, both), *column_terms(a, column, both, sign=-1)]
    return members_mean(rows, "difference", terms, independent_images(a, column))


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
    a, b = a.flattened, b.flattened
    frame = compare(a, b, partial=partial)
    first = [f"{name}: {line}" for name, run in (("A", a), ("B", b)) for line in notices(run)]
    lines = [row for line in first for row in textwrap.wrap(line, 80)] + difference_lines(a, b)
    lines += [""] if lines else []
    seeds = len(set(a.table["seed"]) & set(b.table["seed"]))
    lines += [
        f"{max(frame['members'], default=0)} members in common; differences are B - A, intervals 95 %",
        *textwrap.wrap(_certainty(seeds), 80),
        f"{'column':<34} {'A':>6} {'B':>6} {'B - A':>7} {'low':>7} {'high':>7} {'p Holm':>7}",
    ]
    for row in frame.iter_rows(named=True):
        name = f"{row['column']:<34}"
        if row["note"]:
            lines.append(_short(f"{name} {row['note']}"))
            continue
        ends = ["-" if row[end] is None else decimals(row[end], 4, signed=True) for end in ("low", "high")]
        lines.append(
            f"{name} {decimals(row['mean_a'], 3):>6} {decimals(row['mean_b'], 3):>6} "
            f"{decimals(row['difference'], 4, signed=True):>7} "
            f"{ends[0]:>7} {ends[1]:>7} {p_text(row['p_holm']):>7}"
        )
    return lines + _image_lines(a, b)


def _certainty(seeds: int) -> str:
    if seeds == 1:
        return (
            "One seed in common: how much seeds vary is not known, so there is no p, and intervals, where there are "
            "any, are of the test images alone; run both with --seeds 0-4."
        )
    return seeds_note(seeds)


def _image_lines(a: Results, b: Results) -> list[str]:
    """What the members lose image by image, those that differ most first; why not, where one run does not tell."""
    silent = [name for name, run in (("A", a), ("B", b)) if run.outcomes.is_empty()]
    if len(silent) == 1:
        return ["", f"image by image: nothing, as {silent[0]} kept no outcomes; run it with --outcomes all"]
    if silent:
        return []
    reason = other_meaning(a, b, a.final.worst)
    frame = compare_images(a, b)
    changed = pl.col("only_a") + pl.col("only_b")
    frame = frame.sort("p", -changed, maintain_order=True, nulls_last=True)
    more = [f"the {SHOWN} members that differ most, of {len(frame)}"] if len(frame) > SHOWN else []
    what = f"no p, as they mean different things ({reason})" if reason else "p tells these networks apart, no protocols"
    lines = [
        "",
        f"test images lost by {shared_phase(a, b)} networks, each run under all of its own attacks;",
        _short(what),
        *more,
        f"{'member':<42} {'both':>6} {'only A':>6} {'only B':>6} {'p Holm':>7}",
    ]
    for row in frame.head(SHOWN).iter_rows(named=True):
        name = _short(f"{row['hidden_layers']} (seed {row['seed']})")[:42]
        lines.append(f"{name:<42} {row['both']:>6} {row['only_a']:>6} {row['only_b']:>6} {p_text(row['p_holm']):>7}")
    return lines


def _warning(name: str, left: object, right: object) -> str:
    if isinstance(left, list) and isinstance(right, list):
        shared = len([value for value in left if value in right])
        return f"  {name}: {len(left)} and {len(right)}, {shared} in common"
    return f"  {name}: {left} and {right}"


def _short(line: str) -> str:
    line = printable(line)
    return line if len(line) <= 80 else f"{line[:77]}..."
