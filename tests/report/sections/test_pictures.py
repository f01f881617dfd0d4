"""The section of pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from atras.report.sections.pictures import MOST_GALLERIES, galleries
from atras.results.results import Results


def pixels(uri: str) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize(("place", "attack", "size"), [
    (0, "fgsm at linf 0.05", "linf 0.05, shown 10 times"), (1, "apgd(norm=l2) at l2 1", "l2 0."),
])  # fmt: skip
def test_pictures_show_image_change_and_sum(full: Results, place: int, attack: str, size: str) -> None:
    gallery = galleries(full)[place]
    name = gallery.title.split(",")[0]
    assert gallery.title == f"{name}, before the defence, {attack}"
    row = full.examples.filter(hidden_layers=name, attack=attack.split()[0]).row(0, named=True)
    clean = np.frombuffer(row["pixels"], np.uint8).reshape(8, 8)
    change = np.frombuffer(row["change"], np.float16).astype(float).reshape(8, 8)
    picture = gallery.pictures[0]
    assert np.array_equal(pixels(picture.clean), clean)
    assert np.array_equal(pixels(picture.attacked), np.rint(np.clip(clean / 255 + change, 0, 1) * 255))
    assert np.array_equal(pixels(picture.change), np.rint(127.5 * (1 + change / np.abs(change).max())))
    assert picture.size.startswith(size)
    if attack.startswith("apgd"):
        length, times = np.linalg.norm(change), 0.5 / np.abs(change).max()
        assert picture.size == f"l2 {length:.3g}, shown {times:.3g} times"


def test_those_that_were_right_come_first_and_what_is_not_moved_is_grey(full: Results) -> None:
    wrong = pl.when(pl.col("image") < 3).then(9).otherwise(pl.col("clean_prediction")).alias("clean_prediction")
    still = pl.lit(bytes(2 * 64)).alias("change")
    shown = galleries(replace(full, examples=full.examples.with_columns(wrong, still)))
    assert [picture.image for picture in shown[0].pictures] == [3, 4, 5, 0, 1]
    assert {picture.size for gallery in shown for picture in gallery.pictures} == {"not moved"}
    assert set(pixels(shown[0].pictures[0].change).ravel().tolist()) == {128}


def test_classes_have_their_names(full: Results) -> None:
    names = [*["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]]
    named = replace(full, run=full.run | {"data": full.run["data"] | {"class_names": names}})
    picture = galleries(named)[0].pictures[0]
    assert (picture.label, picture.clean_prediction, picture.attacked_prediction) == ("zero", "zero", "three")


@pytest.mark.parametrize(("attacks", "candidates"), [(2, 3), (4, 2), (5, 1), (40, 1)])
def test_there_are_never_more_than_a_page_holds(full: Results, attacks: int, candidates: int) -> None:
    one = full.examples.filter(attack="fgsm")
    many = pl.concat([one.with_columns(attack=pl.lit(f"pgd(steps={steps})")) for steps in range(attacks)])
    shown = galleries(replace(full, examples=many))
    assert len(shown) <= MOST_GALLERIES
    names = {gallery.title.split(",")[0] for gallery in shown}
    assert len(names) == candidates
    assert "64-512" in names  # the largest
    assert len({gallery.title.split(", ", 2)[2] for gallery in shown}) == min(attacks, MOST_GALLERIES // 2)


def test_attacks_that_aim_elsewhere_have_galleries_of_their_own(full: Results) -> None:
    one = full.examples.filter(attack="fgsm")
    aimed = one.with_columns(target=pl.lit("class:3"), label_source=pl.lit(None, pl.String))
    shown = galleries(replace(full, examples=pl.concat([one, aimed])))
    attacks = {gallery.title.split(", ", 2)[2] for gallery in shown}
    assert attacks == {"fgsm at linf 0.05", "fgsm at linf 0.05, towards class:3"}
    for gallery in shown:
        images = [picture.image for picture in gallery.pictures]
        assert len(set(images)) == len(images)
