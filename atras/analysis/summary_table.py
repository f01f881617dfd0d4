"""A run's table as text for people."""

from __future__ import annotations

import textwrap
from typing import Any

from atras.errors import printable
from atras.results import Results

from .attack_distances import distance_table_lines
from .black_box import black_box_lines
from .paper_tables import distance_lines
from .provenance import notices

_SHOWN = (
    ("train_accuracy", 6),
    ("test_accuracy", 6),
    ("attacked_accuracy_before", 6),
    ("adversarial_train_accuracy", 6),
    ("adversarial_test_accuracy", 6),
    ("attacked_accuracy_after_white_box", 8),
    ("attacked_accuracy_after_static", 6),
)


def summary_lines(results: Results, width: int = 80) -> list[str]:
    """The table, means by depth, attacks' distances, black-box attacks and the paper's distance, as plain text.

    Args:
        results: a run's frames.
        width: columns of the terminal; anything below 80 counts as 80. A name that is too long stands on lines of its
            own above its figures.
    """
    width = max(width, 80)
    told = [row for line in notices(results) for row in textwrap.wrap(line, width)]
    means = results.candidate_means()
    left = max(20, min(width - 60, 8 + max(map(len, means["hidden_layers"]), default=0)))
    seeds = results.table["seed"].n_unique()
    lines = _heading("hidden layers", "params", left)
    lines[0] += " status"
    for row in means.iter_rows(named=True):
        first = _left(printable(row["hidden_layers"]), _short(row["parameters"]), left, width)
        lines += [*first[:-1], f"{first[-1]}{_figures(row)} {printable(row['status'])}"]
    if results.majority_share is not None:
        lines.append(f"baseline: the most frequent class is {results.majority_share:.4f} of the test images")
    if seeds > 1:
        lines.append(f"means over {seeds} seeds; the status is that of the worst seed")
        diverged = results.table.filter(status="diverged")["hidden_layers"].n_unique()
        if diverged:
            lines.append(f"a diverged seed has no figures: {diverged} candidates' means are over fewer seeds")
    lines += ["", "means by depth, over the members that trained", *_heading("depth", "trained", left)]
    for row in results.by_depth().iter_rows(named=True):
        first = _left(str(row["depth"]), f"{row['trained']}/{row['members']}", left, width)
        lines.append(f"{first[-1]}{_figures(row)}")
    for part in (distance_table_lines(results), black_box_lines(results), distance_lines(results)):
        lines += ["", *part] if part else []
    return [*told, "", *lines] if told else lines


def caution_lines(results: Results, width: int = 80) -> list[str]:
    """What makes a run's figures say less than they seem to, as plain text; nothing where nothing does.

    Args:
        results: a run's frames.
        width: as in `summary_lines`.
    """
    told = [printable(str(line)) for line in results.run.get("warnings", ())]
    rows = [row for line in told for row in textwrap.wrap(line, max(width, 80), subsequent_indent="  ")]
    return ["", "cautions", *rows] if rows else []


def _heading(left: str, right: str, left_width: int) -> list[str]:
    return [
        f"{left}{right:>{left_width - len(left)}}  train   test attack    adv    adv    after  after",
        " " * left_width + "               before  train   test whitebox static",
    ]


def _left(name: str, figure: str, left_width: int, width: int) -> list[str]:
    """Name and figure side by side; a name too long for that stands on lines of its own."""
    if len(name) + 1 + len(figure) <= left_width:
        return [name + figure.rjust(left_width - len(name))]
    lines = [name[start : start + width] for start in range(0, len(name), width)]
    return [*lines, figure.rjust(left_width)]


def _figures(row: dict[str, Any]) -> str:
    cells = ["-" if row[name] is None else f"{row[name]:.4f}" for name, _ in _SHOWN]
    return "".join(f" {cell:>{cell_width}}" for cell, (_, cell_width) in zip(cells, _SHOWN, strict=True))


def _short(count: int) -> str:
    """At most five characters, three of them digits that count: 8170, 530k, 1.40M."""
    if count < 100_000:
        return str(count)
    size, unit = (count / 1e3, "k") if count < 999_500 else (count / 1e6, "M")
    if size >= 999.5:
        size, unit = size / 1e3, "G"
    return f"{size:#.3g}".rstrip(".") + unit
