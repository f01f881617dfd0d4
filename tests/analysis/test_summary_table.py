"""The summary of a run as text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atras.analysis import json_text, run_data
from atras.analysis.ranked_table import short_count
from atras.analysis.summary_table import caution_lines, summary_lines
from atras.networks import PAPER_CANDIDATES
from atras.report.sections import depth_means
from atras.results import Results
from atras.results.schemas import ACCURACIES
from atras.results.writer import Writer
from atras.rounding import decimals
from atras.testing.fake_run import make_run
from made_rows import NAMES, Rows, metrics_row, results_of, run_info, seeded, table_row


def paper_sized(width: int = 80) -> list[str]:
    rows = [
        table_row(c.name, accuracy=0.1234, parameters=10 ** (index % 10), status=("trained", "diverged")[index % 2])
        for index, c in enumerate(PAPER_CANDIDATES)
    ]
    return summary_lines(results_of(rows), width)


@pytest.mark.parametrize("width", [20, 60, 80, 100, 200])
def test_summary_fits_the_width_and_names_every_candidate(width: int) -> None:
    lines = paper_sized(width)
    assert max(map(len, lines)) <= max(width, 60)
    first_words = {line.split()[0] for line in lines if line.strip()}
    assert {candidate.name for candidate in PAPER_CANDIDATES} <= first_words


def test_figures_stand_under_their_headings_the_worst_case_and_its_interval_first() -> None:
    figures: dict[str, Any] = {name: 0.05 * (index + 1) for index, name in enumerate(ACCURACIES)}
    lines = summary_lines(results_of([table_row("16-64-256-1024", parameters=1_401_234, **figures)]), 120)
    assert lines[:3] == [
        "network        params  clean  worst        95 % white- static attack  clean  train  train",
        "                               case    interval    box        before before        before",
        "16-64-256-1024  1.40M 0.3000 0.5000           - 0.4000 0.3500 0.1500 0.1000 0.2500 0.0500",
    ]
    assert lines[4] == "baseline: the most frequent class is 0.2500 of the test images"


def grid(*seeds: int) -> Results:
    """Networks of a grid, whose names are long, and small ones, in no order; the worst case is lower than FGSM."""
    names = ("c16k5zsamepauto-c32k5zsamepauto-100", "8", "c16k5zsamepauto", "40")
    rows = [
        table_row(name, seed, 0.6 + 0.05 * place, worst_case_accuracy_after=(0.2, 0.4, 0.5, 0.1)[place] + 0.01 * seed)
        for place, name in enumerate(names)
        for seed in seeds
    ]
    frame = results_of(rows)
    metrics = [metrics_row(name, seed) for name in names for seed in seeds]
    writer = Writer(None, run_info(names, seeds))
    writer.append(Rows(table=frame.table.to_dicts(), metrics=metrics))
    return writer.finish({})


@pytest.mark.parametrize("width", [60, 80, 120])
def test_networks_stand_by_worst_case_with_intervals_and_a_winner(width: int) -> None:
    lines = summary_lines(grid(0, 1, 2), width)
    assert max(map(len, lines)) <= width
    table = lines[2 : lines.index("worst case over FGSM alone, a weak attack: add --attack")]
    names = ["c16k5zsamepauto", "8", "c16k5zsamepauto-c32k5zsamepauto-100", "40"]
    assert [row.split()[0] for row in table if not row.startswith(" ")] == names
    assert [re.findall(r"0\.\d{4}", row)[1] for row in table if "0." in row] == ["0.5100", "0.4100", "0.2100", "0.1100"]
    assert all(re.search(r" 0\.\d{3}-[01]\.\d{3}", row) for row in table if "0." in row)
    ends = {row.index("-0.", 20) for row in table if "0." in row}
    assert len(ends) == 1  # the columns stand below each other, whatever the names are
    text = " ".join(" ".join(lines).split())
    assert "First by worst-case robust accuracy: c16k5zsamepauto with 0.5100 (0." in text
    assert "not distinguishable from it: 8" in text or "told apart from all others" in text


def test_one_seed_gives_no_ranks_and_the_summary_says_so() -> None:
    text = " ".join(" ".join(summary_lines(grid(0), 60)).split())
    assert "No ranks: one seed gives none" in text


def test_a_long_name_stands_above_its_figures() -> None:
    lines = summary_lines(results_of([table_row(NAMES[0]), table_row("1-" * 99 + "1")]))
    figures = "   1000 0.9000 0.9000           - 0.9000"
    assert lines[2].startswith(NAMES[0] + figures)
    assert "".join(lines[3:6]) == "1-" * 99 + "1"
    assert lines[6].startswith(" " * len(NAMES[0]) + figures)


def test_missing_accuracies_are_dashes() -> None:
    lines = summary_lines(results_of([table_row("40", accuracy=None, status="diverged")]))
    assert lines[2].split() == ["40", "1000", "-", "-", "-", "diverged"]


def test_several_seeds_are_said_to_be_means() -> None:
    text = " ".join(summary_lines(seeded()))
    assert "means over 2 seeds; the status is that of the worst seed" in text
    assert "a seed that is dead or diverged counts 0 in the ranking, as of 3 networks here" in text
    one = results_of([table_row("40", 0), table_row("40", 1, 0.1, status="dead")])
    assert "as of 1 network here" in " ".join(summary_lines(one))
    assert not any("counts 0" in line or "means over" in line for line in paper_sized())


def test_what_finds_no_room_is_named() -> None:
    text = " ".join(" ".join(summary_lines(seeded(), 80)).split())
    assert "no room for: train before; a wider terminal or atras show --csv table shows all" in text
    assert not [line for line in summary_lines(seeded(), 120) if "no room" in line]


def pairs_of(told: object) -> set[tuple[str, str]]:
    """The ends of all intervals in JSON values, as the terminal rounds them."""
    if isinstance(told, dict):
        own = {(told["low"], told["high"])} if told.keys() >= {"low", "high"} else set()
        found = [*told.values()]
    elif isinstance(told, list):
        own, found = ({tuple(told)} if len(told) == 2 and isinstance(told[0], float) else set()), [*told]
    else:
        return set()
    ends = {tuple(decimals(end, places) for end in pair) for pair in own if None not in pair for places in (3, 4)}
    return ends.union(*map(pairs_of, found))


@pytest.mark.parametrize("defence", ["copies", "none"])
def test_json_has_every_interval_that_the_terminal_shows(defence: str) -> None:
    run = make_run(seeds=range(5))
    if defence == "none":
        before = run.metrics.filter(phase="trained")
        run = replace(run, metrics=before, run=run.run | {"protocol": run.run["protocol"] | {"defence": "none"}})
    text = "\n".join(summary_lines(run, 200))
    shown = set(re.findall(r"(-?\d\.\d{3,4})(?:-| to )(-?\d\.\d{3,4})", text))
    assert len(shown) > 5  # of networks, depths and the winner
    assert shown <= pairs_of(run_data(run))
    assert json_text(run_data(run))


def test_a_run_without_rows_has_a_summary() -> None:
    nothing = Writer(None, run_info()).finish({})
    assert summary_lines(nothing)
    told = run_data(nothing)
    assert (told["ranking"], told["winner"], told["depths"]) == ([], None, [])


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (99_999, "99999"),
        (100_000, "100k"),
        (999_500, "1.00M"),
        (12_345_678, "12.3M"),
        (4_294_967_296, "4.29G"),
    ],
)
def test_counts_are_shortened_to_three_digits(count: int, text: str) -> None:
    assert short_count(count) == text


def test_names_in_foreign_results_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    writer = Writer(tmp_path, run_info(("\x1b[2J",), dataset="\x1b[2J"))
    writer.append(Rows(table=[table_row("\x1b[2J", 0), table_row("\x1b[2J", 1)]))
    found = writer.finish({})
    found.run["status"] = "\x1b[2J"
    for text in (repr(found), *summary_lines(found)):
        assert text.isprintable()
    assert any(line.startswith(r"\x1b[2J") for line in summary_lines(found))


def test_cautions_of_a_run_stay_within_the_width() -> None:
    writer = Writer(None, run_info(("8",), (0,)) | {"warnings": ["data: " + "word " * 40, "dead: \x1b[2J8"]})
    lines = caution_lines(writer.finish({}))
    assert lines[:2] == ["", "cautions"]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    assert caution_lines(Writer(None, run_info(("8",), (0,))).finish({})) == []


def with_attacks(*attacks: tuple[str, str]) -> list[str]:
    """The summary of a network under further attacks, each with its label."""
    usual = {"mode": "white-box", "norm": "linf", "target": "none", "phase": "defended", "epsilon": 0.05}
    rows = [metrics_row("40", 0) | usual | {"attack": attack, "label_source": label} for attack, label in attacks]
    writer = Writer(None, run_info(("40",), (0,)))
    writer.append(Rows(table=[table_row("40", 0, worst_case_accuracy_after=0.1234)], metrics=rows))
    return summary_lines(writer.finish({}))


def test_the_attacks_of_the_worst_case_are_named() -> None:
    lines = with_attacks(("fgsm", "true"), ("pgd(steps=9)", "true"), ("worst(fgsm, pgd(steps=9))", "true"))
    assert lines[2].split()[3] == "0.1234"
    assert "worst case over fgsm, pgd(steps=9)" in lines
    assert "worst case over FGSM alone, a weak attack: add --attack" in with_attacks(("fgsm", "true"))


@pytest.mark.parametrize("width", [60, 80])
def test_means_by_depth_have_the_reports_intervals(width: int) -> None:
    run = make_run(names=("8-16-32", "24-192", "64-512", "40", "64"), seeds=range(3))
    lines = summary_lines(run, width)
    assert max(map(len, lines)) <= width
    start = lines.index("means by depth, over the members that trained")
    trained = run.table.filter(pl.col("status") == "trained")
    wanted = depth_means(trained, "worst_case_accuracy_after", 899, run)
    assert len(wanted) == 2
    rows = {int(line.split()[0]): line.split() for line in lines[start + 3 :] if re.match(r"[123] ", line)}
    for depth, (mean, low, high) in wanted.items():
        assert rows[depth][3:5] == [f"{mean:.4f}", f"{low:.3f}-{high:.3f}"]
