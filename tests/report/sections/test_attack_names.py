"""Attacks with options in their spelling are told apart by their names and shown as they are spelled."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest

from atras import report
from atras.registry import name_of
from atras.report.sections.attack_names import attack_name, file_part
from atras.report.sections.attacks import attacks
from atras.report.sections.epsilons import epsilons
from atras.report.sections.transfer import transfer
from atras.results.results import Results

SPELLINGS = {
    "fgsm": "fgsm",
    "pgd": "pgd(steps=40, restarts=5)",
    "worst": "worst(fgsm, pgd(steps=40, restarts=5))",
    "none": "none",
}


@pytest.fixture(scope="module")
def spelled(full: Results) -> Results:
    """The run with attacks that have options."""
    metrics = full.metrics
    attack = pl.col("attack").replace_strict(SPELLINGS)
    other = pl.lit("pgd(steps=40, restarts=5)").alias("attack")
    return dataclasses.replace(full, metrics=metrics.with_columns(attack), transfer=full.transfer.with_columns(other))


@pytest.mark.parametrize(
    ("spelling", "name", "file"),
    [
        ("pgd", "pgd", "pgd"),
        ("random-fgsm", "random-fgsm", "random-fgsm"),
        ("pgd(steps=40, restarts=5)", "pgd", "pgd-steps=40-restarts=5"),
        ("pgd(step_size=0.01)", "pgd", "pgd-step_size=0.01"),
        ("worst(fgsm, deepfool(norm=linf))", "worst", "worst-fgsm-deepfool-norm=linf"),
        ("../../x", "../../x", "..-..-x"),
        ("none", "none", "none"),
    ],
)
def test_names_and_parts_of_file_names(spelling: str, name: str, file: str) -> None:
    assert name_of(spelling) == name
    assert pl.DataFrame({"attack": [spelling]}).select(attack_name()).item() == name
    assert file_part(spelling) == file


def test_the_worst_case_is_last_and_shown_as_it_is_spelled(full: Results, spelled: Results) -> None:
    (before,), (after,) = attacks(full).figures, attacks(spelled).figures
    parts = [row.name.partition(", epsilon") for row in before.rows]
    assert [row.name for row in after.rows] == [SPELLINGS[name] + comma + epsilon for name, comma, epsilon in parts]
    assert after.rows[-1].name.startswith("worst(")
    assert [row.marks for row in after.rows] == [row.marks for row in before.rows]
    # Not one at another epsilon, which takes more for that alone.
    assert "After the defence, pgd(steps=40, restarts=5) takes most and leaves 0." in after.summary


def test_curves_of_epsilon_are_those_of_the_bare_names(full: Results, spelled: Results) -> None:
    before, after = epsilons(full).figures, epsilons(spelled).figures
    assert [chart.title for chart in after] == [
        chart.title.replace("pgd", "pgd(steps=40, restarts=5)") for chart in before
    ]
    points = [[[each.points for each in chart.series] for chart in charts] for charts in (before, after)]
    assert points[0] == points[1]
    assert after[-1].name == "epsilons-pgd-steps=40-restarts=5-defended"


def test_transfer_maps_show_the_spelling(spelled: Results) -> None:
    drawn = transfer(spelled).figures[0]
    assert drawn.title == "pgd(steps=40, restarts=5), before the defence"
    assert drawn.name == "transfer-pgd-steps=40-restarts=5-before"


def test_images_of_spelled_attacks_have_plain_file_names(spelled: Results, tmp_path) -> None:
    files = {path.name for path in report.write(spelled, tmp_path / "charts", "svg").iterdir()}
    assert "transfer-pgd-steps=40-restarts=5-after.svg" in files
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-=._") for name in files)


def test_what_enters_the_worst_case_in_part_is_explained(full: Results) -> None:
    def text(spelling: str) -> str:
        named = pl.col("attack").replace("worst", spelling)
        return " ".join(attacks(dataclasses.replace(full, metrics=full.metrics.with_columns(named))).text)

    assert "named after “partly”" in text("worst(fgsm, pgd; partly deepfool)")
    assert "partly" not in text("worst(fgsm, pgd)")
