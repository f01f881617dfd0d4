"""Rows of bars and marks: whatever their number, they lie end to end and below one another."""

from __future__ import annotations

import itertools
import re

import pytest

from atras.report.charts import Bar, Bars, Estimate

BOX = re.compile(
    r'<title>([^<]*)</title><rect class="f c(\d)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
)
MARK = re.compile(r"<title>row ([0-9]+), [^<]*</title>")
PARTS = ("left", "taken by square", "taken by apgd")


def stacked(count: int) -> Bars:
    rows = [Bar(f"row {i}", f"{1 + i // 10} layers", (0.5, 0.0 if i % 2 else 0.125, 0.25)) for i in range(count)]
    return Bars("parts", "Parts", "All are equal.", "share", tuple(rows), parts=PARTS)


@pytest.mark.parametrize("count", [2, 40])
def test_parts_lie_end_to_end_and_rows_below_one_another(count: int) -> None:
    svg = str(stacked(count).svg())
    boxes = [(tip, *map(float, numbers)) for tip, *numbers in BOX.findall(svg)]
    assert len(boxes) == 3 * count - count // 2  # a part of nothing is not drawn
    scale = {part: width for _, part, _, _, width, _ in boxes[:3]}
    assert scale[0] == pytest.approx(2 * scale[2], abs=0.2)
    end = dict[float, float]()
    for tip, part, x, y, width, _ in boxes:
        assert (part == 0) == (y not in end)
        assert x == pytest.approx(end.get(y, x), abs=0.15)  # figures have one decimal
        end[y] = x + width
        assert PARTS[int(part)] in tip
    tops, height = sorted(end), boxes[0][5]
    assert len(tops) == count
    assert all(later - earlier >= height for earlier, later in itertools.pairwise(tops))
    assert float(re.search(r'viewBox="0 0 720 (\d+)"', svg)[1]) > tops[-1] + height  # type: ignore[index]
    assert svg.count("0.500</text>") == count  # what is left, beside each bar
    assert len(re.findall(r"\d layers</text>", svg)) == -(-count // 10)


def test_marks_of_a_row_stand_side_by_side_with_their_intervals() -> None:
    marks = (Estimate(0.5, 0.4, 0.6), Estimate(None), Estimate(0.25, 0.2, 0.3))
    few = Bars("x", "X", "", "accuracy", (Bar("row 0", "1 layer", marks=marks),), marks=("fgsm", "pgd", "apgd"))
    svg = str(few.svg())
    assert len(MARK.findall(svg)) == 2
    assert svg.count('class="b ') == 2
    assert few.table.columns == (
        "candidate",
        "depth",
        *(text for name in few.marks for text in (name, "95 % interval")),
    )
    assert few.table.rows == (
        ("row 0", "1 layer", "0.5000", "0.4000 to 0.6000", "-", "-", "0.2500", "0.2000 to 0.3000"),
    )
    many = Bars("x", "X", "", "accuracy", few.rows * 20, marks=few.marks)
    assert 'class="b ' not in str(many.svg())


def test_long_names_and_legends_stay_within_the_chart() -> None:
    rows = (Bar("1-" * 60 + "1", "61 layers", (0.5,) * 8),)
    labels = tuple(f"taken by apgd(steps={100 * i}, restarts=5)" for i in range(8))
    svg = str(Bars("x", "X", "", "share", rows, parts=labels).svg())
    # Above its row, in lines of its own: nothing of a name is cut.
    assert "".join(re.findall(r'<text class="halo" x="2" y="[\d.]+">([^<]+)</text>', svg)) == rows[0].name
    legend = re.findall(r'<text x="([\d.]+)" y="(\d+)">(taken[^<]+)</text>', svg)
    assert len({y for _, y, _ in legend}) > 2
    assert all(float(x) + 6.4 * len(text) <= 720 for x, _, text in legend)


@pytest.mark.parametrize("narrow", [False, True])
def test_a_legend_that_is_wider_than_the_chart_takes_several_lines(narrow: bool) -> None:
    label = "worst(" + ", ".join(f"pgd(steps={steps}, restarts=5)" for steps in (10, 20, 40, 80, 160)) + ")"
    chart = Bars("x", "X", "", "share", (Bar("40", "", marks=(Estimate(0.5),)),), marks=(label,))
    texts = re.findall(r'<text x="28.0" y="\d+">([^<]+)</text>', str(chart.svg(narrow=narrow)))
    assert " ".join(texts) == label
    assert all(28 + 6.4 * len(text) <= (358 if narrow else 720) for text in texts)


def test_joined_marks_stand_on_one_line_with_the_interval_of_the_last() -> None:
    marks = (Estimate(0.5, 0.4, 0.6), Estimate(0.25, 0.2, 0.3))
    row = Bar("40", "1 layer", marks=marks)
    svg = str(Bars("x", "X", "", "accuracy", (row,), marks=("fgsm", "worst case"), joined=True).svg())
    left, y, right = map(float, re.findall(r'class="join" d="M([\d.]+) ([\d.]+)H([\d.]+)"', svg)[0])
    assert left < right
    assert re.findall(r'class="b c(\d)"', svg) == ["1"]
    assert f'cx="{right:.1f}" cy="{y:.1f}"' in svg


def test_names_are_escaped() -> None:
    svg = Bars("x", "X", "", "share", (Bar("<b>", "&", (1.0,)),), parts=("<i>",)).svg(standalone=True)
    assert "<b>" not in svg
    assert "<i>" not in svg
