"""The paper's claims and stated figures as plain text that fits a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from atras.errors import wrapped
from atras.rounding import decimals

if TYPE_CHECKING:
    from atras.analysis import Claim, Interval, PaperName, Stated
    from atras.results import Results


def claims_lines(results: Results | None = None, width: int = 80) -> list[str]:
    """The claims and the text's figures on the paper's tables and on a run, then every row that contradicts them.

    Args:
        results: a run; None for the paper's tables alone.
        width: columns of the terminal, at least 60.
    """
    from atras.analysis import (
        PAPER_NAMES,
        claims,
        notices,
        stated_figures,
        table_claims,
        tables_figures,
        timing_caution,
    )

    of_tables = {name: table_claims(name) for name in PAPER_NAMES}
    if results is None:
        lines = ["the paper's claims on its own tables", ""]
        lines += _claim_lines([], of_tables, width)
        return [*lines, *_stated_lines(tables_figures(), width), *_oddity_lines(width)]
    lines = wrapped([f"the paper's claims on {_short(str(results.directory or results.dataset))}"], width)
    told = filter(None, [*notices(results), timing_caution(results)])
    lines += ["", *(row for line in told for row in [*wrapped([line], width), ""])]
    lines += _claim_lines(claims(results, partial=True), of_tables, width)
    lines += _stated_lines(stated_figures(results, partial=True), width)
    return [*lines, *_oddity_lines(width), "", *_row_lines(results, width)]


def _claim_lines(of_run: Sequence[Claim], of_tables: Mapping[PaperName, Sequence[Claim]], width: int) -> list[str]:
    """Every claim: its verdict on the run, then figures and verdicts under our definition and under the paper's own."""
    by_name = {name: {claim.name: claim for claim in own} for name, own in of_tables.items()}
    first, *_ = of_tables.values()
    lines: list[str] = []
    for shown in of_run or first:
        run = shown if of_run else None
        *above, title = wrapped([shown.name], width - 11)
        lines += [*above, f"{title:<{width - 11}} {run.verdict if run else '':>10}".rstrip()]
        lines += _wrapped("paper", shown.stated, width)
        tables = {name: own[shown.name] for name, own in by_name.items() if shown.name in own}
        lines += _wrapped("ours", shown.text, width)
        lines += [_row(name, _figure(one.paper_figure), one.paper_verdict) for name, one in tables.items()]
        if run is not None:
            ours = None if run.ours is None else (run.ours, run.low, run.high)
            lines.append(_row("here", _ends(ours), run.verdict))
        if shown.theirs:
            lines += _wrapped("as the paper has it", shown.theirs, width)
            lines += [_row(name, _figure(one.table_theirs), one.table_theirs_verdict) for name, one in tables.items()]
            lines += [_row("here", _ends(run.run_theirs), run.run_theirs_verdict)] if run is not None else []
        lines.append("")
    return lines


def _row(where: str, figure: str, verdict: str) -> str:
    return f"    {where:<8} {figure} {verdict}"


def _stated_lines(figures: Sequence[Stated], width: int) -> list[str]:
    """The text's figures, with the columns and rows that give them, on tables and run, under both definitions."""
    from atras.analysis import MARGIN

    lines = [
        "the figures that the paper's text states, in points, and those of its tables:",
        "under the definition that gives them, and under ours",
        f"(holds: the same within {100 * MARGIN:g} point, our choice)",
    ]
    lines = wrapped(lines, width)
    side_by_side = all(len(_beside(one)) <= width for one in figures)
    shown = None
    for one in figures:
        if one.statement is not shown:
            shown = one.statement
            lines += ["", *wrapped([shown.name], width)]
            lines += _wrapped("as the paper has it", shown.theirs.text, width)
            lines += _wrapped("ours", shown.ours.text, width)
            head = f"    {'':<8} {'text':>7}  {'as the paper has it':<31} ours"
            lines.append(head if side_by_side else f"  {'':<8} {'text':>7}")
        lines += [_beside(one)] if side_by_side else _below(one)
    return lines


def _beside(one: Stated) -> str:
    """A stated figure and both definitions' on a line."""
    theirs, ours = _cells(one)
    return f"    {one.where:<8} {_stated(one):>7}  {theirs:<31} {ours}"


def _below(one: Stated) -> list[str]:
    """The same on two lines, for a narrow terminal."""
    theirs, ours = _cells(one)
    return [f"  {one.where:<8} {_stated(one):>7} paper {theirs}", f"  {'':<16} ours  {ours}"]


def _cells(one: Stated) -> list[str]:
    """The figure with its verdict, as the paper has it and as we have it."""
    return [
        f"{_points(figure)} {verdict if one.stated is not None else ''}".rstrip()
        for figure, verdict in ((one.theirs, one.theirs_verdict), (one.ours, one.ours_verdict))
    ]


def _stated(one: Stated) -> str:
    return _number(one.stated)


def _oddity_lines(width: int) -> list[str]:
    from atras.analysis import PAPER_NAMES, tables_oddities

    room = min(44, width - 18)
    lines = ["", f"{'what the tables show besides':<{room}} {PAPER_NAMES[0]:>8} {PAPER_NAMES[1]:>8}"]
    for (fact,), part in tables_oddities().group_by("fact", maintain_order=True):
        *above, last = wrapped([str(fact)], room)
        lines += [*above, f"{last:<{room}} " + " ".join(f"{count:>8}" for count in part["rows"])]
    return lines


def _wrapped(label: str, text: str, width: int) -> list[str]:
    return wrapped([f"  {label}: {text}"], width - 2) if text else []


def _figure(value: float | None) -> str:
    return "-" if value is None else decimals(value, 4, signed=True)


def _ends(interval: tuple[float, float | None, float | None] | None) -> str:
    if interval is None:
        return "-"
    mean, low, high = interval
    return _figure(mean) + ("" if low is None or high is None else f" [{_figure(low)}, {_figure(high)}]")


def _points(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    mean, low, high = interval
    if low is None or high is None or low == high:
        return _number(mean)
    low_text, high_text = (decimals(100 * end, 1, signed=True) for end in (low, high))
    return f"{_number(mean)} [{low_text}, {high_text}]"


def _row_lines(results: Results, width: int) -> list[str]:
    from atras.analysis import row_by_row

    room = min(28, width - 51)
    lines = [
        "row by row: recovery, in points; l lost accuracy, c one class (chance),",
        "a more accurate on the old adversarial images than on clean ones, d diverged",
    ]
    lines = wrapped(lines, width)
    lines.append(f"{'':<{room}} {'paper mnist':>12} {'paper cifar10':>13} {'here static':>13} {'white-box':>9}")
    for row in row_by_row(results).iter_rows(named=True):
        name = row["hidden_layers"]
        cells = [
            f"{_number(row[column]):>{size}} {_marks(row[flags]):<2}"
            for column, flags, size in (("mnist", "mnist_flags", 9), ("cifar10", "cifar10_flags", 10))
        ]
        here = f"{_number(row['recovery_static']):>10} {_marks(row['flags']):<2}"
        lines += [name[start : start + width] for start in range(0, len(name), width)] if len(name) > room else []
        shown = name if len(name) <= room else ""
        lines.append(f"{shown:<{room}} {cells[0]} {cells[1]} {here} {_number(row['recovery_white_box']):>9}".rstrip())
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else decimals(100 * value, 2, signed=True)


def _marks(flags: str | None) -> str:
    return "".join(flag[0] for flag in (flags or "").split())


def _short(name: str) -> str:
    return name if len(name) <= 50 else f"...{name[-47:]}"
