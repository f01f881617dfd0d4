"""Data on which figures say less than they seem to are named, with counts, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atras.data import Dataset, load
from atras.data.cautions import explained_by_chance
from atras.errors import InputError


def labels_of(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def made(
    folder: Path, train: np.ndarray, test: np.ndarray, white: float = 255, dtype: type = np.uint8, **asked
) -> Dataset:  # type: ignore[no-untyped-def]
    arrays = {}
    for part, labels in (("train", train), ("test", test)):
        images = np.random.default_rng(0).random((len(labels), 4, 4))
        images[0, 0, 0] = 1
        arrays |= {f"x_{part}": (images * white).astype(dtype), f"y_{part}": labels}
    np.savez(folder / "made.npz", **arrays)  # type: ignore[arg-type]
    return load(str(folder / "made.npz"), **asked)


def test_mixed_data_have_no_caution(tmp_path: Path) -> None:
    assert made(tmp_path, np.arange(100) % 5, np.arange(50) % 5).cautions == ()


def test_the_bundled_set_has_no_caution() -> None:
    for size in (50, 200, "all"):
        assert load("digits", train_size=size, test_size=size).cautions == ()


def test_the_start_of_a_sorted_file_is_told_with_counts(tmp_path: Path) -> None:
    data = made(tmp_path, labels_of(100, 100, 100, 100), labels_of(25, 25, 25, 25), train_size=200)
    (line,) = data.cautions
    assert line.startswith("data: no training image of 200 is of classes 2 and 3, but 50 of the 100 test images taken")
    assert line.endswith("add --subset stratified, or --train-size all")
    assert data.provenance()["train_class_counts"] == [100, 100, 0, 0]
    assert data.provenance()["test_class_counts"] == [25, 25, 25, 25]


def test_classes_that_neither_part_reaches_are_told(tmp_path: Path) -> None:
    data = made(tmp_path, labels_of(100, 100, 100), labels_of(50, 50, 50), train_size=150, test_size=75)
    assert [line.split(";")[0] for line in data.cautions] == [
        "data: no training image of 150 is of class 2, but 150 of all 450 images are",
        "data: no test image of 75 is of class 2, but 150 of all 450 images are",
    ]


def test_a_stratified_draw_of_a_sorted_file_has_every_class(tmp_path: Path) -> None:
    data = made(
        tmp_path, labels_of(100, 100, 200), labels_of(25, 25, 50), train_size=100, test_size=40, subset="stratified"
    )
    assert data.cautions == ()
    assert data.provenance()["train_class_counts"] == [25, 25, 50]
    assert data.provenance()["test_class_counts"] == [10, 10, 20]
    assert data.provenance()["subset"] == "stratified"
    whole = load(str(tmp_path / "made.npz"), train_size="all")
    images = {image.numpy().tobytes() for image in whole.train.images}
    assert {image.numpy().tobytes() for image in data.train.images} <= images


def test_shares_that_are_far_apart_are_told(tmp_path: Path) -> None:
    (line,) = made(tmp_path, labels_of(500, 500), labels_of(350, 650)).cautions
    assert line.startswith(
        "data: class shares of the training and the test images are 0.15 apart (total variation), most in class 0: 500 "
        "of 1000, 350 of 1000"
    )
    assert made(tmp_path, labels_of(50, 50), labels_of(40, 60)).cautions == ()  # so far apart chance can bring them
    near = made(tmp_path, labels_of(50000, 50000), labels_of(48000, 52000), train_size="all", test_size="all")
    assert near.cautions == ()  # beyond chance, but so little that it hardly matters


def test_what_is_taken_may_be_far_from_what_there_is(tmp_path: Path) -> None:
    order = np.concatenate([labels_of(700, 300), labels_of(300, 700)])
    (line,) = made(tmp_path, order, order, train_size=1000, test_size=1000).cautions
    assert "of the training and the available training images are 0.20 apart" in line


def test_chance_explains_the_shares_of_random_samples() -> None:
    random, beyond = np.random.default_rng(0), 0
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    for _ in range(2000):
        a, b = random.multinomial(300, shares), random.multinomial(100, shares)
        beyond += 0.5 * np.abs(a / 300 - b / 100).sum() > explained_by_chance(a, b)
    assert beyond == 0  # 2 would be expected if the bound were exact, and it is an upper bound


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ((900, 100), True),
        ((700, 300), False),
        ((800, 100, 100), True),
        ((250, *[83] * 9), True),
        ((180, *[90] * 9), False),
    ],
)
def test_a_class_that_most_images_are_of_is_told(tmp_path: Path, counts: tuple[int, ...], told: bool) -> None:
    cautions = made(tmp_path, labels_of(*counts), labels_of(*counts), test_size="all", train_size="all").cautions
    assert len(cautions) == told
    if told:
        assert f"always answering it has accuracy {counts[0] / sum(counts):.4f}" in cautions[0]


@pytest.mark.parametrize(
    ("white", "dtype", "expected"),
    [
        (16, np.uint8, "the brightest pixel of x_train is 16 of 255 (uint8), 0.0627 of the range that epsilon is "
         "measured in; multiply by 15.9375 and round"),
        (1, np.uint8, "is 1 of 255 (uint8)"),
        (127, np.uint8, "is 127 of 255"),
        (128, np.uint8, None),
        (16 / 255, np.float32, "is 0.0627451 of 1 (float), 0.0627 of the range that epsilon is measured in; multiply "
         "by 15.9375"),
        (0.5, np.float32, None),
    ],
)  # fmt: skip
def test_images_that_do_not_reach_far_are_told(tmp_path: Path, white: float, dtype: type, expected: str | None) -> None:
    cautions = made(tmp_path, np.arange(40) % 4, np.arange(40) % 4, white, dtype).cautions
    assert len(cautions) == (0 if expected is None else 2)  # of either part
    if expected:
        assert expected in cautions[0]


def test_black_images_are_told_without_a_factor(tmp_path: Path) -> None:
    line, _ = made(tmp_path, np.arange(40) % 4, np.arange(40) % 4, 0).cautions
    assert line.endswith("is 0 of 255 (uint8), 0 of the range that epsilon is measured in")


def test_classes_that_only_the_numbering_has_are_named(tmp_path: Path) -> None:
    labels = np.array([1, 2, 4]).repeat(20)
    data = made(tmp_path, labels, labels)
    (line,) = data.cautions
    assert line.startswith("data: labels go up to 4, but no image is of classes 0 and 3")
    assert data.occurring.tolist() == [1, 2, 4]


def test_one_class_is_refused_whatever_its_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least 2 classes, got only label 1; add another class"):
        made(tmp_path, np.ones(10, int), np.ones(10, int))
