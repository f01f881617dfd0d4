"""Folders of Parquet files with encoded images, as Hugging Face's data sets have them."""

from __future__ import annotations

import json
import os

import numpy as np
import polars as pl
import pytest

from atras.data import load, parquet_source
from made_files import refused
from made_images import encoded, noise


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def feature(names):
    return {"huggingface": json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})}


def write_parquet(path, count=6, image="image", label="label", first=0, packed=True, metadata=None, **columns):
    """Images of noise that `first` seeds, with labels 0, 1, 0, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = [encoded(noise(8, 8, 3, seed=first + each)) for each in range(count)]
    images = [{"bytes": each, "path": "x.png"} for each in contents] if packed else contents
    made = {image: images, label: [each % 2 for each in range(count)]} | columns
    pl.DataFrame(made).write_parquet(path, metadata=metadata)
    return path


def write_parts(folder, **options):
    write_parquet(folder / "train-00000-of-00001.parquet", **options)
    write_parquet(folder / "test-00000-of-00001.parquet", count=4, first=50, **options)
    return folder


def expected(*seeds):
    return np.stack([noise(8, 8, 3, seed=seed).transpose(2, 0, 1) for seed in seeds])


@pytest.mark.parametrize(
    ("image", "label", "packed"),
    [("image", "label", True), ("img", "label", True), ("img", "fine_label", True), ("image", "labels", False)],
)
def test_columns_have_the_names_of_common_sets(tmp_path, image, label, packed):
    write_parts(tmp_path / "set", image=image, label=label, packed=packed, coarse_label=None)
    found = load(str(tmp_path / "set"))
    assert np.array_equal(found.train.images, expected(*range(6)))
    assert np.array_equal(found.test.images, expected(*range(50, 54)))
    assert (found.train.labels.tolist(), found.name, found.class_names) == ([0, 1] * 3, "set", ())


@pytest.mark.parametrize(
    ("first", "second", "test"),
    [
        ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"),
        ("data/train-00000-of-00002-0123", "data/train-00001-of-00002-4567", "data/test-00000-of-00001-89ab"),
        ("train/0000", "train/0001", "test/0000"),
        ("train", "train-1", "test"),
    ],
)
def test_files_have_the_names_of_common_sets(tmp_path, first, second, test):
    folder = tmp_path / "a set [1]"
    for start, name in ((50, test), (0, first), (6, second)):
        write_parquet(folder / f"{name}.parquet", first=start)
    found = load(str(folder))
    order = range(12) if (first, second) != ("train", "train-1") else [*range(6, 12), *range(6)]
    assert np.array_equal(found.train.images, expected(*order))
    assert np.array_equal(found.test.images, expected(*range(50, 56)))


def test_slices_join(tmp_path, monkeypatch):
    write_parts(tmp_path)
    before = load(str(tmp_path)).provenance()["sha256"]
    monkeypatch.setattr(parquet_source, "SLICE_BYTES", 300)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert load(str(tmp_path)).provenance()["sha256"] == before


def test_names_of_classes_come_from_the_metadata(tmp_path):
    write_parts(tmp_path, metadata=feature(["cat", "dog", "hen"]))
    found = load(str(tmp_path))
    assert (found.class_names, found.classes) == (("cat", "dog", "hen"), 3)
    assert any("but no image is of class 2 (hen);" in text for text in found.cautions)


@pytest.mark.parametrize("content", ["[", "{}", '{"info": {"features": {"label": {"names": [1, 2]}}}}', "[" * 10_000])
def test_other_metadata_have_no_names(tmp_path, content):
    write_parts(tmp_path, metadata={"huggingface": content})
    assert load(str(tmp_path)).class_names == ()


def test_validation_beside_test_is_said_to_be_unused(tmp_path):
    write_parquet(write_parts(tmp_path) / "validation-00000.parquet")
    found = load(str(tmp_path))
    assert (len(found.test), found.cautions[0]) == (
        4, f"data: not used is the validation part of {tmp_path.name}; to test on it, move the test part away",
    )  # fmt: skip


def test_images_without_bytes_are_broken(tmp_path):
    write_parquet(tmp_path / "train.parquet", count=100)
    write_parquet(tmp_path / "test.parquet", count=100, packed=False)
    frame = pl.read_parquet(tmp_path / "test.parquet")
    images = [None, *frame["image"].to_list()[1:]]
    frame.with_columns(image=pl.Series(images)).write_parquet(tmp_path / "test.parquet")
    found = load(str(tmp_path))
    assert found.cautions[0].endswith("is left out: test.parquet, row 0 (it has no bytes)")
    assert (len(found.test), found.test.labels.tolist()[:2]) == (99, [1, 0])


class TestRefusals:
    def test_one_file(self, tmp_path):
        path = write_parquet(tmp_path / "mnist.parquet")
        refused("expected a training and a test part, got one file; give a folder with train-*.parquet", name=path)

    def test_one_part(self, tmp_path):
        write_parquet(tmp_path / "train-0.parquet")
        refused("got train-0.parquet; add the part that is missing", name=tmp_path)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (
                {"image": "picture"},
                "expected a column image or img and a column label or labels or fine_label, got pic",
            ),
            ({"label": "y"}, "got image (Struct({'bytes': Binary, 'path': String})), y (Int64)"),
        ],
    )
    def test_other_columns(self, tmp_path, columns, message):
        refused(message, name=write_parts(tmp_path, **columns))

    def test_labels_that_are_no_whole_numbers(self, tmp_path):
        message = "expected column label to have a whole number an image, got String; number the classes"
        write_parquet(tmp_path / "test.parquet")
        pl.read_parquet(tmp_path / "test.parquet").with_columns(label=pl.lit("a")).write_parquet(
            tmp_path / "train.parquet"
        )
        refused(message, name=tmp_path)

    def test_labels_that_are_missing(self, tmp_path):
        write_parquet(tmp_path / "test.parquet")
        pl.read_parquet(tmp_path / "test.parquet").with_columns(
            label=pl.Series([0, None, 1, None, 0, 1])
        ).write_parquet(tmp_path / "train.parquet")
        refused("train.parquet: expected a label for each image, 2 have none", name=tmp_path)

    def test_labels_of_a_hidden_test_set(self, tmp_path):
        write_parquet(tmp_path / "train.parquet")
        pl.read_parquet(tmp_path / "train.parquet").with_columns(label=pl.lit(-1)).write_parquet(
            tmp_path / "test.parquet"
        )
        refused("expected labels from 0 to 65535, got -1", name=tmp_path)

    def test_images_that_are_no_bytes(self, tmp_path):
        write_parts(tmp_path)
        pl.DataFrame({"image": [[1, 2]], "label": [0]}).write_parquet(tmp_path / "train-0.parquet")
        refused("train-0.parquet: expected column image to have encoded images, as a struct", name=tmp_path)

    def test_a_name_that_is_no_utf8(self, tmp_path):
        folder = write_parts(tmp_path / "set").rename(tmp_path / os.fsdecode(b"\xff"))
        refused("expected a name in UTF-8, by which polars opens files; rename it", name=folder)

    @pytest.mark.parametrize("keep", [0, 3, 100, -8])
    def test_a_damaged_file(self, tmp_path, keep):
        path = write_parts(tmp_path) / "train-00000-of-00001.parquet"
        path.write_bytes(path.read_bytes()[:keep])
        refused(f"{path}: expected a Parquet file, cannot be read", name=tmp_path)

    def test_a_file_without_images(self, tmp_path):
        write_parts(tmp_path)
        pl.read_parquet(tmp_path / "test-00000-of-00001.parquet").head(0).write_parquet(
            tmp_path / "test-00000-of-00001.parquet"
        )
        refused("test-00000-of-00001.parquet: expected at least one image, got none", name=tmp_path)
