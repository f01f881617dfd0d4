"""The comparison of two runs as plain text that fits a terminal."""

from __future__ import annotations

import polars as pl

from atras.errors import printable, wrapped
from atras.results import Results
from atras.rounding import counted, decimals

from .compare import compare, protocol_differences, side_by_side
from .images import compare_images
from .meanings import other_meaning
from .provenance import computing_differences, data_differences, notices, other_test_images
from .statistics import p_text, seeds_note
from .text_table import Column, fitted_width, heading_lines, row_lines

SHOWN = 10
"""Most members whose lost images are listed."""

_DIFFERENCES = (
    Column("mean_a", "A"), Column("mean_b", "B"), Column("difference", "B - A", least=7),
    Column("low", "low", least=7), Column("high", "high", least=7), Column("p_holm", "p Holm", least=7),
)  # fmt: skip
_IMAGES = (
    Column("both", "both"), Column("only_a", "only A"), Column("only_b", "only B"), Column("p", "p Holm", least=7),
)  # fmt: skip


def compare_lines(a: Results, b: Results, *, partial: bool = False, width: int = 80) -> list[str]:
    """`compare` as plain text, behind all that the runs do not share.

    Args:
        a, b, partial: as of `compare`.
        width: columns of the terminal, at least 60.
    """
    a, b = side_by_side(a, b)
    frame = compare(a, b, partial=partial)
    first = [f"{name}: {line}" for name, run in (("A", a), ("B", b)) for line in notices(run)]
    lines = wrapped([*first, *difference_lines(a, b)], width)
    lines += [""] if lines else []
    seeds = len(set(a.table["seed"]) & set(b.table["seed"]))
    members = max(frame["members"], default=0)
    told = [
        f"{counted(members, 'member')} in common; differences are B - A, intervals 95 %",
        _certainty(seeds),
        *_asides(a, b, frame),
    ]
    return [*lines, *wrapped(told, width), *_column_lines(frame, width), *_image_lines(a, b, width)]


def difference_lines(a: Results, b: Results) -> list[str]:
    """What two runs do not share, the data first, a line each; none where all is alike."""
    parts = {"THE DATA DIFFER:": [f"  {line}" for line in data_differences(a, b)]}
    if other_test_images(a, b):
        parts["THE TEST IMAGES DIFFER: nothing is tested, as they alone may make a difference"] = [""]
    parts["they were computed differently:"] = [f"  {line}" for line in computing_differences(a, b)]
    parts["the protocols differ:"] = [_differing(name, *values) for name, values in protocol_differences(a, b).items()]
    lines = []
    for heading, own in parts.items():
        if own:
            lines += [heading, *(printable(line) for line in own if line)]
    return lines


def _differing(name: str, left: object, right: object) -> str:
    if isinstance(left, list) and isinstance(right, list):
        shared = len([value for value in left if value in right])
        return f"  {name}: {len(left)} and {len(right)}, {shared} in common"
    return f"  {name}: {left} and {right}"


def _asides(a: Results, b: Results, frame: pl.DataFrame) -> list[str]:
    """What is to be known of some of the rows."""
    told = []
    if a.defends != b.defends:
        name = "B" if a.defends else "A"
        told.append(f"{name} has no defence: its networks stand beside defended ones as their training ends.")
    kept = not (a.outcomes.is_empty() or b.outcomes.is_empty())
    balanced = frame.filter(pl.col("column").str.starts_with("balanced"), note="")
    if kept and len(balanced):
        told.append(
            "Balanced figures are not paired image by image: outcomes lack classes; their intervals are a bound."
        )
    return told


def _networks(a: Results, b: Results) -> str:
    return f"{a.final.phase} networks" if a.final.phase == b.final.phase else "the networks that each run ends with"


def _certainty(seeds: int) -> str:
    if seeds == 1:
        return (
            "One seed in common: how much seeds vary is not known, so there is no p, and intervals, where there are "
            "any, are of the test images alone; run both with --seeds 0-4."
        )
    return seeds_note(seeds)


def _column_lines(frame: pl.DataFrame, width: int) -> list[str]:
    """The differences, a row a column of the table."""
    names = frame["column"].to_list()
    first = fitted_width("column", names, _DIFFERENCES, width)
    lines = heading_lines("column", first, _DIFFERENCES)[:1]
    for row in frame.iter_rows(named=True):
        if row["note"]:
            lines += wrapped([f"{row['column']:<{first}} {row['note']}"], width)
            continue
        ends = ["-" if row[end] is None else decimals(row[end], 4, signed=True) for end in ("low", "high")]
        means = [decimals(row["mean_a"], 3), decimals(row["mean_b"], 3), decimals(row["difference"], 4, signed=True)]
        lines += row_lines(row["column"], first, [*means, *ends, p_text(row["p_holm"])], _DIFFERENCES, width)
    return lines


def _image_lines(a: Results, b: Results, width: int) -> list[str]:
    """What the members lose image by image, those that differ most first; why not, where one run does not tell."""
    silent = [name for name, run in (("A", a), ("B", b)) if run.outcomes.is_empty()]
    if len(silent) == 1:
        told = f"image by image: nothing, as {silent[0]} kept no outcomes; run it with --outcomes all"
        return ["", *wrapped([told], width)]
    if silent:
        return []
    reason = other_meaning(a, b, a.final.worst)
    frame = compare_images(a, b)
    changed = pl.col("only_a") + pl.col("only_b")
    frame = frame.sort("p", -changed, maintain_order=True, nulls_last=True)
    what = f"no p, as they mean different things ({reason})" if reason else "p tells these networks apart, no protocols"
    heading = [
        f"test images lost by {_networks(a, b)}, each run under all of its own attacks;", what,
        *([f"the {SHOWN} members that differ most, of {len(frame)}"] if len(frame) > SHOWN else []),
    ]  # fmt: skip
    shown = frame.head(SHOWN)
    names = [printable(f"{name} (seed {seed})") for name, seed in shown.select("hidden_layers", "seed").iter_rows()]
    first = fitted_width("member", names, _IMAGES, width)
    lines = ["", *wrapped(heading, width), *heading_lines("member", first, _IMAGES)[:1]]
    for name, row in zip(names, shown.iter_rows(named=True), strict=True):
        cells = [*(str(row[column]) for column in ("both", "only_a", "only_b")), p_text(row["p_holm"])]
        lines += row_lines(name, first, cells, _IMAGES, width)
    return lines
