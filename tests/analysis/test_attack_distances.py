"""Distances of attacks, shown with the number of images that they are of."""

from __future__ import annotations

from typing import Any

from atras.analysis import attack_distances, summary_lines
from atras.report.registry import make_section
from atras.results import Results
from atras.results.writer import Writer
from made_rows import Rows, metrics_row, run_info, table_row


def attacked(name: str, attack: str, count: int, distance: float | None, **changes: Any) -> dict[str, object]:
    figures = dict.fromkeys(("mean_linf", "median_linf", "mean_l2"), distance)
    median = None if distance is None else distance / 2
    row = {"attack": attack, "mode": "white-box", "label_source": "true", "target": "none", "epsilon": None}
    return metrics_row(name) | row | figures | {"median_l2": median, "attacked": count} | changes


def made() -> Results:
    writer = Writer(None, run_info(("8", "16", "24"), (0,)))
    writer.append(
        Rows(
            table=[table_row("8"), table_row("16"), table_row("24", status="dead")],
            metrics=[
                attacked("8", "deepfool", 60, 0.5),
                attacked("16", "deepfool", 80, 1.5),
                attacked("24", "deepfool", 10, 9.0),
                attacked("8", "deepfool", 0, None, phase="defended"),
                attacked("8", "fgsm", 60, 0.05, epsilon=0.05),
                attacked("8", "deepfool", 30, 7.0, epoch=1, split="train"),
            ],
        )
    )
    return writer.finish({})


def test_members_that_trained_are_averaged_and_their_images_counted() -> None:
    frame = attack_distances(made(), unbounded=True).select("phase", "members", "attacked", "n", "mean_l2", "median_l2")
    assert frame.rows() == [("trained", 2, 140, 200, 1.0, 0.5), ("defended", 0, 0, 100, None, None)]
    assert attack_distances(made())["attack"].to_list() == ["deepfool", "deepfool", "fgsm"]


def test_the_terminal_shows_the_images_beside_the_distances() -> None:
    lines = summary_lines(made())
    at = lines.index("smallest changes found, over images classified right before that were changed")
    assert lines[at + 1].split() == ["attack", "images", "median", "mean", "median", "mean"]
    assert lines[at + 3].split() == ["deepfool,", "trained", "140", "of", "200", "0.500", "1.000", "1.000", "1.000"]
    assert lines[at + 4].split() == ["deepfool,", "defended", "0", "of", "100", *"----"]
    for width in (60, 80):
        assert max(map(len, summary_lines(made(), width))) <= width


def test_the_report_shows_them_too() -> None:
    table = make_section("attacks", made()).tables[0]
    assert table.rows[0][:5] == ("deepfool", "before the defence", "140 of 200", "0.5000", "1.0000")
    assert [row[0] for row in table.rows] == ["deepfool", "deepfool", "fgsm"]


def test_what_an_attack_aims_at_stands_beside_it() -> None:
    writer = Writer(None, run_info(("8",), (0,)))
    aimed = {"label_source": "predicted"}
    writer.append(
        Rows(table=[table_row("8")], metrics=[attacked("8", "cw", 60, 0.5), attacked("8", "cw", 60, 0.7, **aimed)])
    )
    lines = summary_lines(writer.finish({}))
    told = [line for line in lines if line.startswith("cw")]
    assert [line.partition("  ")[0] for line in told] == ["cw, trained", "cw, predicted label, trained"]


def test_attacks_that_found_nothing_for_some_images_are_not_compared_without_a_word() -> None:
    told = "with fewer images nothing was found for the rest, which may need larger changes"
    for count, there in ((7, True), (46, False)):
        writer = Writer(None, run_info(("8",), (0,)))
        rows = [attacked("8", "cw", count, 0.03), attacked("8", "fmn", 46, 0.3)]
        writer.append(Rows(table=[table_row("8")], metrics=rows))
        lines = summary_lines(writer.finish({}))
        assert (told in lines) == there
        assert max(map(len, lines)) <= 80
