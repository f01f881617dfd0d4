"""The summary of a run as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atras.analysis import summary_table
from atras.analysis.summary_table import caution_lines, summary_lines
from atras.networks import PAPER_CANDIDATES
from atras.results.schemas import ACCURACIES
from atras.results.writer import Writer
from made_rows import NAMES, Rows, metrics_row, results_of, run_info, seeded, table_row


def paper_sized(width: int = 80) -> list[str]:
    rows = [
        table_row(c.name, accuracy=0.1234, parameters=10 ** (index % 10), status=("trained", "diverged")[index % 2])
        for index, c in enumerate(PAPER_CANDIDATES)
    ]
    return summary_lines(results_of(rows), width)


@pytest.mark.parametrize("width", [20, 80, 100, 200])
def test_summary_fits_the_width_and_names_every_candidate(width: int) -> None:
    lines = paper_sized(width)
    assert max(map(len, lines)) <= max(width, 80)
    first_words = {line.split()[0] for line in lines if line.strip()}
    assert {candidate.name for candidate in PAPER_CANDIDATES} <= first_words


def test_figures_stand_under_their_headings_white_box_before_static() -> None:
    figures: dict[str, Any] = {name: 0.1 * (index + 1) for index, name in enumerate(ACCURACIES)}
    lines = summary_lines(results_of([table_row("16-64-256-1024", parameters=1_401_234, **figures)]))
    assert lines[:3] == [
        "hidden layers params  train   test attack    adv    adv    after  after status",
        "                                   before  train   test whitebox static",
        "16-64-256-1024 1.40M 0.1000 0.2000 0.3000 0.5000 0.6000   0.8000 0.7000 trained",
    ]
    assert lines[3] == "baseline: the most frequent class is 0.2500 of the test images"
    assert lines[5:] == [
        "means by depth, over the members that trained",
        "depth        trained  train   test attack    adv    adv    after  after",
        "                                   before  train   test whitebox static",
        "4                1/1 0.1000 0.2000 0.3000 0.5000 0.6000   0.8000 0.7000",
    ]


def test_a_long_name_stands_above_its_figures() -> None:
    lines = summary_lines(results_of([table_row(NAMES[0]), table_row("1-" * 99 + "1")]))
    assert lines[2] == NAMES[0]
    assert lines[3].startswith(" " * 16 + "1000 0.9000")
    assert "".join(lines[4:7]) == "1-" * 99 + "1"


def test_missing_accuracies_are_dashes() -> None:
    lines = summary_lines(results_of([table_row("40", accuracy=None, status="diverged")]))
    assert lines[2].split() == ["40", "1000", *"-------", "diverged"]
    assert lines[-1].split() == ["1", "0/1", *"-------"]


def test_several_seeds_are_said_to_be_means() -> None:
    assert "means over 2 seeds; the status is that of the worst seed" in summary_lines(seeded())
    assert "a diverged seed has no figures: 2 candidates' means are over fewer seeds" in summary_lines(seeded())
    assert not any("seeds" in line for line in paper_sized())


def test_a_run_without_rows_has_a_summary() -> None:
    assert summary_lines(Writer(None, run_info()).finish({}))


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
    assert summary_table._short(count) == text


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


HEADING = "hidden layers params  train   test attack    adv    adv    after  after status"


def with_attacks(*attacks: tuple[str, float | None], width: int = 80) -> list[str]:
    """The table of two members under further attacks with these epsilons."""
    made = [("fgsm", 0.05), *attacks, ("worst(fgsm, apgd)", 0.05)] if attacks else [("fgsm", 0.05)]
    changes = {"mode": "white-box", "norm": "linf", "label_source": "true", "target": "none", "phase": "defended"}
    rows = [
        metrics_row("40", seed, correct=70 - 10 * place - 2 * seed) | changes | {"attack": attack, "epsilon": epsilon}
        for seed in (0, 1)
        for place, (attack, epsilon) in enumerate(made)
    ]
    writer = Writer(None, run_info(("40",), (0, 1)))
    writer.append(
        Rows(table=[table_row("40", seed, worst_case_accuracy_after=0.1234) for seed in (0, 1)], metrics=rows)
    )
    return summary_lines(writer.finish({}), width)


@pytest.mark.parametrize(
    ("attacks", "name", "figure"),
    [
        ([("autoattack", 0.05)], "autoattack", "0.5900"),
        ([("apgd(steps=9)", 0.05)], "apgd", "0.5900"),
        ([("autoattack", 0.05), ("pgd", 0.05)], "case", "0.1234"),
        ([("pgd", 0.05), ("pgd", 0.1)], "case", "0.1234"),
        ([("deepfool", None)], "case", "0.1234"),
    ],
)
@pytest.mark.parametrize("width", [80, 90, 120])
def test_further_attacks_have_a_column(
    attacks: list[tuple[str, float | None]], name: str, figure: str, width: int
) -> None:
    lines = with_attacks(*attacks, width=width)
    assert max(map(len, lines)) <= width
    above, below, row = lines[:3]
    at = below.index(f" {name}") + 1 + len(name)
    assert below[at:].strip() == ""
    assert row[at - 6 : at] == figure
    assert above[at:].strip() == "status"
    assert ("train" in below) == (width > 90 or (width == 90 and name != "autoattack"))
    depth = next(line for line in lines if line.startswith("1 "))
    assert depth.endswith(figure)
    assert "train   test" in above or name == "autoattack"
    assert with_attacks(width=width)[0] == HEADING


def test_two_labels_of_one_attack_are_no_single_further_attack() -> None:
    usual = {"mode": "white-box", "norm": "linf", "target": "none", "phase": "defended", "epsilon": 0.05}
    made = [("fgsm", "true"), ("pgd", "true"), ("pgd", "predicted"), ("worst(fgsm, pgd)", "true")]
    rows = [
        metrics_row("40", 0, correct=70 - place) | usual | {"attack": attack, "label_source": label}
        for place, (attack, label) in enumerate(made)
    ]
    writer = Writer(None, run_info(("40",), (0,)))
    writer.append(Rows(table=[table_row("40", 0, worst_case_accuracy_after=0.1234)], metrics=rows))
    above, below, row = summary_lines(writer.finish({}))[:3]
    assert below.split()[-1] == "case"
    assert "0.1234" in row
    assert "worst" in above
