"""Figures that need a second look are named, and no others."""

from __future__ import annotations

import pytest

from atras.evaluation import Row, Rows, cautions

FINE = {
    "hidden_layers": "40", "seed": 0, "status": "trained", "test_accuracy": 0.9, "attacked_accuracy_before_true": 0.5,
    "adversarial_test_accuracy": 0.9, "attacked_accuracy_after_white_box": 0.6,
}  # fmt: skip


def metric(attack: str, correct: int, **changes: object) -> Row:
    row: Row = {
        "hidden_layers": "40", "seed": 0, "phase": "trained", "epoch": None, "split": "test", "attack": attack,
        "epsilon": 0.05, "label_source": "true", "mode": "white-box", "n": 1000, "correct": correct,
        "majority_share": 0.1, "zero_gradient_images": 10, "saturated_images": 100,
    }  # fmt: skip
    return row | changes


CLEAN = {"mode": "clean", "label_source": None, "majority_share": 0.9}
EPOCH = {"epoch": 2, "split": "train", "n": 100, "phase": "defended"}


@pytest.mark.parametrize(
    ("table", "metrics", "expected"),
    [
        ({}, [metric("fgsm", 500), metric("pgd", 400)], None),
        ({"status": "dead"}, [], "dead, predicts one class"),
        ({"status": "diverged", "attacked_accuracy_after_white_box": None}, [], "diverged, a loss"),
        ({"attacked_accuracy_before_true": 0.91}, [], "more accurate under attack"),
        ({"attacked_accuracy_after_white_box": 0.91}, [], "more accurate under attack"),
        ({}, [metric("fgsm", 500), metric("pgd", 511)], "FGSM turns more images than PGD"),
        ({}, [metric("fgsm", 500), metric("pgd", 509)], None),
        ({}, [metric("fgsm", 500), metric("pgd", 600, phase="defended")], None),
        ({}, [metric("fgsm", 500), metric("pgd(norm=l2)", 600, norm="l2")], None),
        (
            {},
            [metric("apgd", 400), metric("fgsm", 500), metric("square", 389)],
            "square, which follows no",
        ),
        ({}, [metric("apgd", 400), metric("fgsm", 500), metric("square(queries=9)", 390)], None),
        ({}, [metric("apgd", 400), metric("square", 300, epsilon=0.1)], None),
        ({}, [metric("apgd(norm=l2)", 400, epsilon=1.0), metric("square", 300, epsilon=1.0)], None),
        (
            {},
            [metric("apgd(norm=l2)", 400), metric("square(norm=l2)", 300)],
            "square, which follows no",
        ),
        ({}, [metric("worst(apgd, square)", 400), metric("deepfool", 400), metric("square", 300)], None),
        ({}, [metric("fgsm", 500), metric("fgsm", 129, epsilon=0.5)], "more accurate than the most frequent class at"),
        ({}, [metric("fgsm", 500), metric("fgsm", 128, epsilon=0.5)], None),
        ({}, [metric("fgsm", 900, majority_share=0.9), metric("fgsm", 900, epsilon=0.5, majority_share=0.9)], None),
        (
            {},
            [metric("none", 918, **CLEAN)],
            "before the defence not clearly more accurate than",
        ),
        ({}, [metric("none", 919, **CLEAN)], None),
        ({"status": "dead"}, [metric("none", 900, **CLEAN)], "dead, predicts one class"),
        ({}, [metric("fgsm", 500), metric("fgsm", 300, epsilon=0.5), metric("fgsm", 100, epsilon=1.0)], None),
        ({}, [metric("fgsm", 500), metric("fgsm", 300, epsilon=0.4)], None),
        ({}, [metric("fgsm", 90, **EPOCH), metric("pgd", 69, **EPOCH)], "robust to FGSM but not to PGD"),
        ({}, [metric("fgsm", 90, **EPOCH), metric("pgd", 71, **EPOCH)], None),
    ],
)
def test_each_caution_names_its_member(table: Row, metrics: list[Row], expected: str | None) -> None:
    found = cautions(Rows(table=[FINE | table], metrics=metrics))
    assert len(found) == (expected is not None)
    if expected:
        assert found[0].startswith(expected)
        assert found[0].endswith((": 40 (seed 0)", f": 40 (seed 0, epoch {EPOCH['epoch']})"))


def test_catastrophic_overfitting_is_told_with_its_epochs() -> None:
    apart = {1: 5, 2: 25, 3: 10, 4: 60}
    rows = [
        metric(attack, 90 - less * (attack == "pgd"), **EPOCH | {"epoch": epoch})
        for epoch, less in apart.items()
        for attack in ("fgsm", "pgd")
    ]
    (line,) = cautions(Rows(metrics=rows))
    assert line.endswith("catastrophic overfitting: 40 (seed 0, epochs 2 to 4)")


def test_a_dead_network_that_gains_under_attack_is_explained() -> None:
    gains = {"status": "dead", "adversarial_test_accuracy": 0.1, "attacked_accuracy_after_white_box": 0.2}
    told = cautions(Rows(table=[FINE | gains]))
    assert [line for line in told if "moves" in line or "attacks move its one answer" in line]
    assert not [line for line in told if "weak gradients?" in line]
    assert [line for line in cautions(Rows(table=[FINE | gains | {"status": "trained"}])) if "weak gradients?" in line]


def test_static_figures_far_above_those_of_a_new_attack_are_said_to_say_little() -> None:
    figures = {"attacked_accuracy_after_static": 0.8, "adversarial_test_accuracy": 0.9}
    for white_box, there in ((0.59, True), (0.61, False)):
        told = cautions(Rows(table=[FINE | figures | {"attacked_accuracy_after_white_box": white_box}]))
        assert bool([line for line in told if "static figures say little here: 40 (seed 0)" in line]) == there
    dead = FINE | figures | {"attacked_accuracy_after_white_box": 0.1, "status": "dead"}
    assert not [line for line in cautions(Rows(table=[dead])) if "static" in line]


def test_many_members_share_a_line() -> None:
    rows = Rows(table=[FINE | {"status": "dead", "seed": seed} for seed in range(12)])
    (line,) = cautions(rows)
    assert line.endswith("40 (seed 4) and 7 more")


def test_a_targeted_attack_is_not_held_against_fgsm() -> None:
    weaker, towards = metric("fgsm", 150), metric("pgd", 190, target="random", label_source=None)
    assert not cautions(Rows(metrics=[weaker, towards]))
    assert cautions(Rows(metrics=[weaker, metric("pgd", 190)]))


@pytest.mark.parametrize(
    ("column", "meaning"),
    [
        ("zero_gradient_images", "images without a gradient"),
        ("saturated_images", "so sure of images that float32"),
    ],
)
def test_images_without_a_gradient_and_saturated_ones_are_counted(column: str, meaning: str) -> None:
    count = {"zero_gradient_images": 11, "saturated_images": 101}[column]
    rows = [metric("fgsm", 500, **{column: count}), metric("fgsm", 400, epsilon=0.1, **{column: count})]
    (line,) = cautions(Rows(metrics=rows))
    assert line.startswith(meaning)
    assert line.endswith(f": 40 (seed 0, trained: {count} of 1000)")
    assert "no attack" not in line  # a random start moves such an image, and so do attacks without gradients
    assert not cautions(Rows(metrics=[metric("pgd", 500, **{column: count})]))
    assert not cautions(Rows(metrics=[metric("fgsm", 500, **{column: count - 1})]))


@pytest.mark.parametrize(
    ("column", "meaning"),
    [
        ("zero_gradient_images", "images where apgd-t has no gradient, masked gradients?"),
        ("unfinished_images", "images that apgd-t was still turning at its end, take more steps"),
        ("blindly_turned_images", "images that in apgd-t only the part without gradients turned, masked gradients?"),
    ],
)
def test_ascents_without_a_gradient_or_an_end_are_counted(column: str, meaning: str) -> None:
    quiet = {"zero_gradient_images": 10, "unfinished_images": 10, "blindly_turned_images": 10}
    rows = [metric("fgsm", 600), metric("apgd-t(steps=10)", 500, **quiet | {column: 11})]
    assert cautions(Rows(metrics=rows)) == [f"{meaning}: 40 (seed 0, trained: 11 of 1000)"]
    assert not cautions(Rows(metrics=[metric("fgsm", 600), metric("apgd-t(steps=10)", 500, **quiet)]))
