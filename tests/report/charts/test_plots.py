"""Charts of points and lines."""

from __future__ import annotations

import re

from atras.report.charts import Chart, Point, Series, categories, linear

NAMES = ["fgsm", "pgd(steps=40, restarts=5)", "deepfool(norm=linf)", "worst(fgsm, pgd(steps=40, restarts=5))"]


def chart(names: list[str]) -> Chart:
    marks = tuple(Point(index, 0.5) for index in range(len(names)))
    axes = categories("attack", names), linear("accuracy", [0.0, 1.0])
    return Chart("attacks", "Attacks", "All are equal.", *axes, (Series("all", 0, marks),))


def test_a_long_name_below_an_axis_takes_several_lines_within_its_share() -> None:
    svg = chart(NAMES).svg()
    lines = re.findall(r'<text class="mid" x="([\d.]+)" y="(\d+)">([^<]+)</text>', svg)
    assert [text for _, _, text in lines] == [
        "fgsm",
        "pgd(steps=40,",
        "restarts=5)",
        "deepfool(norm=linf)",
        "worst(fgsm,",
        "pgd(steps=40,",
        "restarts=5))",
    ]
    assert len({(x, y) for x, y, _ in lines}) == len(lines)
    height = int(re.search(r'height="(\d+)"', svg)[1])
    assert max(int(y) for _, y, _ in lines) < height - 20
    assert height == int(re.search(r'height="(\d+)"', chart(["fgsm", "pgd"]).svg())[1]) + 28


def test_data_and_marks_have_the_whole_name() -> None:
    drawn = chart(NAMES)
    assert [row[1] for row in drawn.table.rows] == NAMES
    assert all(f"attack {name}," in drawn.svg() for name in NAMES)


def test_a_name_that_is_longer_than_its_place_is_cut() -> None:
    svg = chart(["x" * 30 + f" {index} " + "y" * 200 for index in range(12)]).svg()
    assert "…</text>" in svg
    assert chart([""]).svg().startswith("<svg")


def test_a_word_too_long_for_a_line_breaks_after_its_parenthesis() -> None:
    names = ["deepfool(norm=linf)", "worst(fgsm, deepfool(norm=linf))", *"abcde"]
    lines = re.findall(r'<text class="mid" x="[\d.]+" y="\d+">([^<]+)</text>', chart(names).svg())
    assert lines == ["deepfool(", "norm=linf)", "worst(fgsm,", "deepfool(", "norm=linf))", *"abcde"]
