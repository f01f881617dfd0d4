"""Tables, in Markdown, of what readings.py measured: how near each reading is to the paper, and which rows are dead.

    python bench/validation/readings_tables.py readings.json > readings.md

Several files are one: their rows are put together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from scipy.stats import spearmanr

from atras.analysis.statistics import sample_mean
from harness import Row
from paper_rows import AFTER, BEFORE, COLUMNS, accuracies_of, dead, distances, paper_rows, trained

TITLES = ("train", "test", "attacked before", "adversarial train", "adversarial test", "attacked after")
DEEP = 5
"""Hidden layers from which on most of the paper's rows are dead."""


class Reading(NamedTuple):
    """What rows have in common."""

    nodes: str
    activation: str
    learning_rate: float
    dropout: float
    epsilon: float

    @classmethod
    def of(cls, row: Row) -> Reading:
        return cls(*(row[name] for name in cls._fields))

    @property
    def cells(self) -> list[str]:
        return [self.nodes, self.activation, f"{self.learning_rate:g}", f"{self.dropout:g}", f"{self.epsilon:g}"]


HEAD = ["nodes", "activation", "rate", "dropout", "epsilon"]


def by_reading(rows: Iterable[Row], part: str) -> dict[Reading, dict[int, list[Row]]]:
    """Rows of a part by reading and seed."""
    found: dict[Reading, dict[int, list[Row]]] = {}
    for row in rows:
        if row["part"] == part:
            found.setdefault(Reading.of(row), {}).setdefault(row["seed"], []).append(row)
    return found


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))


def mean_text(values: Sequence[float], digits: int = 3) -> str:
    """A mean over seeds with its 95 % interval, where there are two."""
    interval = sample_mean(values).interval()
    half = "" if interval.high is None else f" ± {interval.high - interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f}{half}"


def distance_table(found: dict[Reading, dict[int, list[Row]]], dataset: str) -> str:
    """Mean absolute differences, the nearest reading first."""
    lines = []
    for reading, seeds in found.items():
        each = [own for rows in seeds.values() if (own := distances(rows, dataset)) is not None]
        whole = [own for rows in seeds.values() if (own := distances(rows, dataset, whole=True)) is not None]
        if not each:
            continue
        columns = [mean_text(column) for column in zip(*each, strict=True)]
        near = [sum(own) / len(COLUMNS) for own in each]
        of_all = mean_text([sum(own) / len(COLUMNS) for own in whole])
        lines.append((sum(near) / len(near), [*reading.cells, *columns, mean_text(near), of_all]))
    head = [*HEAD, *TITLES, "mean", "mean, all rows"]
    return table(head, [line for _, line in sorted(lines)])


def epsilon_table(found: dict[Reading, dict[int, list[Row]]], dataset: str) -> str:
    """The distance of "attacked before" alone, at each epsilon it was measured at, and our mean less the paper's."""
    alive, paper, lines = trained(dataset), paper_rows(dataset), []
    names = sorted(
        {name for seeds in found.values() for rows in seeds.values() for name in rows[0]["attacked_by_epsilon"]}
    )
    for reading, seeds in found.items():
        pairs = [
            (row["attacked_by_epsilon"], paper[row["hidden_layers"]][2])
            for rows in seeds.values()
            for row in rows
            if row["hidden_layers"] in alive and not row["dead_before"] and row["attacked_by_epsilon"]
        ]
        cells = []
        for name in names:
            gaps = [ours[name] - theirs for ours, theirs in pairs]
            cells.append(f"{sum(map(abs, gaps)) / len(gaps):.3f} ({sum(gaps) / len(gaps):+.3f})" if gaps else "-")
        lines.append([*reading.cells[:4], *cells])
    return table([*HEAD[:4], *(f"epsilon {name}" for name in names)], lines)


def rank_table(found: dict[Reading, dict[int, list[Row]]], dataset: str) -> str:
    """Spearman's rank correlation with the paper a seed, over the rows that trained in both phases in both.

    It has none, `-`, where a column has one value, as of networks that all know their training images.
    """
    alive, paper, lines = trained(dataset), paper_rows(dataset), []
    for reading, seeds in found.items():
        each = []
        for rows in seeds.values():
            own = [
                row for row in rows if row["hidden_layers"] in alive and not (row["dead_before"] or row["dead_after"])
            ]
            pairs = [(ours, paper[row["hidden_layers"]]) for row in own if (ours := accuracies_of(row)) is not None]
            if len(pairs) > 2:
                ours_theirs = (zip(*side, strict=True) for side in zip(*pairs, strict=True))
                each.append([_rank_text(*both) for both in zip(*ours_theirs, strict=True)])
        if each:
            lines.append([*reading.cells, *(", ".join(column) for column in zip(*each, strict=True))])
    return table([*HEAD, *TITLES], lines)


def _rank_text(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return "-" if min(len(set(ours)), len(set(theirs))) == 1 else f"{spearmanr(ours, theirs).statistic:.2f}"


def dead_table(found: dict[Reading, dict[int, list[Row]]], dataset: str) -> str:
    """How many networks are dead, shallow and deep, of the paper's dead rows, and diverged, in a seed on average."""
    paper = paper_rows(dataset)
    theirs = {phase: {name for name, own in paper.items() if dead(own, phase, dataset)} for phase in (BEFORE, AFTER)}
    printed = [
        cell
        for names in theirs.values()
        for cell in _dead_cells([(name, name.count("-") + 1) for name in names], names, 1)
    ]
    lines = [["the paper", "", "", "", "", "1", *printed, "0"]]
    for reading, seeds in found.items():
        cells = [*reading.cells, str(len(seeds))]
        for phase, field in ((BEFORE, "dead_before"), (AFTER, "dead_after")):
            own = [(row["hidden_layers"], row["depth"]) for rows in seeds.values() for row in rows if row[field]]
            cells += _dead_cells(own, theirs[phase], len(seeds))
        diverged = sum(accuracies_of(row) is None for rows in seeds.values() for row in rows)
        lines.append([*cells, _a_seed(diverged, len(seeds))])
    columns = ["to four layers", "five and more", "the paper's own"]
    dead_columns = [f"{name}, {when}" for when in ("before", "after") for name in columns]
    return table([*HEAD, "seeds", *dead_columns, "diverged"], lines)


def _dead_cells(own: Sequence[tuple[str, int]], theirs: set[str], seeds: int) -> list[str]:
    counts = [
        sum(depth < DEEP for _, depth in own), sum(depth >= DEEP for _, depth in own),
        sum(name in theirs for name, _ in own),
    ]  # fmt: skip
    return [_a_seed(count, seeds) for count in counts]


def _a_seed(count: int, seeds: int) -> str:
    return f"{count / seeds:.1f}".removesuffix(".0")


def row_table(found: dict[Reading, dict[int, list[Row]]], dataset: str) -> str:
    """Networks that are dead anywhere: in how many seeds, before / after."""
    paper = paper_rows(dataset)
    readings = [
        reading
        for reading, seeds in found.items()
        if any(r["dead_before"] or r["dead_after"] for rows in seeds.values() for r in rows)
    ]
    lines = []
    for name, accuracies in paper.items():
        cells = [_yes(dead(accuracies, BEFORE, dataset)) + " / " + _yes(dead(accuracies, AFTER, dataset))]
        for reading in readings:
            own = [row for rows in found[reading].values() for row in rows if row["hidden_layers"] == name]
            counts = [sum(row[field] for row in own) for field in ("dead_before", "dead_after")]
            cells.append(f"{counts[0]} / {counts[1]} of {len(own)}" if own else "-")
        if cells[0] != "- / -" or any(not cell.startswith(("0 / 0", "-")) for cell in cells[1:]):
            lines.append([f"`{name}`", *cells])
    names = [", ".join(reading.cells) for reading in readings]
    return table(["hidden layers", "the paper", *names], lines)


def _yes(value: bool) -> str:
    return "dead" if value else "-"


def matched(rows: Sequence[Row]) -> list[Row]:
    """Screened units of the candidates, activations, rates and dropouts that filters were measured with."""
    keys = ("activation", "learning_rate", "dropout", "hidden_layers", "epsilon", "seed")
    there = {tuple(row[key] for key in keys) for row in rows if row["part"] == "filters"}
    return [
        {**row, "part": "filters"} for row in rows if row["part"] == "screen" and tuple(row[k] for k in keys) in there
    ]


TABLES: dict[str, Callable[[dict[Reading, dict[int, list[Row]]], str], str]] = {
    "Mean absolute difference, rows that trained in the paper; in the last column all rows.": distance_table,
    "Attacked before, by epsilon: mean absolute difference (mean difference).": epsilon_table,
    "Rank correlation.": rank_table,
    "Dead and diverged networks a seed.": dead_table,
    "Dead networks by row, seeds before / after.": row_table,
}
"""By the line above it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="of readings.py")
    asked = parser.parse_args(argv)
    documents = [json.loads(path.read_text()) for path in asked.files]
    rows = [row for document in documents for row in document["rows"]]
    dataset = documents[0]["table"]
    for part, more in (("screen", []), ("confirm", []), ("filters", matched(rows))):
        found = by_reading([*rows, *more], part)
        if not found:
            continue
        print(f"## {part}")
        for title, made in TABLES.items():
            print(f"\n{title}\n\n{made(found, dataset)}")
        print()
    return 0


if __name__ == "__main__":
    main()
