"""MedMNIST's sets by name, from the files of their package's cache."""

from __future__ import annotations

import numpy as np
import pytest

from atras.data import load
from atras.data.medmnist import MEDMNIST, REFUSED, SIZES
from made_files import refused


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".medmnist").mkdir()
    return tmp_path / ".medmnist"


def write_set(path, side=28, classes=3, kind=(3,)):
    draw = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 12), ("val", 6), ("test", 6)):
        arrays[f"{part}_images"] = draw.integers(0, 256, (count, side, side, *kind), np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    np.savez(path, **arrays)
    return arrays


def test_a_name_is_the_file_in_the_cache_of_their_package(home):
    made = write_set(home / "bloodmnist.npz")
    found = load("bloodmnist")
    assert np.array_equal(found.train.images, made["train_images"].transpose(0, 3, 1, 2))
    assert (found.name, found.classes, found.class_names[0]) == ("bloodmnist", 8, "basophil")
    assert found.provenance()["class_names"] == list(MEDMNIST["bloodmnist"])
    assert any("no image is of classes 3 (immature granulocytes)" in text for text in found.cautions)


@pytest.mark.parametrize("side", SIZES)
def test_an_image_size_names_the_file_of_that_size(home, side):
    write_set(home / ("pathmnist.npz" if side == 28 else f"pathmnist_{side}.npz"), side, classes=9)
    assert load("pathmnist", image_size=side).image_shape == (3, side, side)


def test_a_data_folder_comes_first(home, tmp_path):
    write_set(home / "pneumoniamnist.npz", classes=2)
    write_set(tmp_path / "pneumoniamnist.npz", classes=2, kind=())
    assert load("pneumoniamnist", data_dir=tmp_path).image_shape == (1, 28, 28)
    assert load("pneumoniamnist").image_shape == (3, 28, 28)


def test_a_missing_file_is_named_with_its_folders(home, tmp_path):
    refused(
        f"octmnist: expected octmnist_64.npz in {tmp_path} or {home}, it is not there", "medmnist.com",
        name="octmnist", image_size=64, data_dir=tmp_path,
    )  # fmt: skip


def test_a_size_that_they_have_not(home):
    refused("image_size (=32): expected one of 28, 64, 128, 224, which octmnist has", name="octmnist", image_size=32)


@pytest.mark.parametrize("name", REFUSED)
def test_sets_of_other_kinds_are_refused_by_name(home, name):
    refused(f"dataset (={name}): expected images [H, W] with one label each, it has {REFUSED[name]}", name=name)
