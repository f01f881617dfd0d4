"""Data sets: what is loaded, where from, and what is refused in one line. Downloads are in test_download.py."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from atras.data import datasets, load, pixels
from atras.data import download as official_files
from atras.data.datasets import DATASETS
from atras.data.download import OFFICIAL
from atras.data.idx_file import IDX_FILES
from atras.errors import InputError
from made_files import arrays, refused, write_idx, write_npz


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class TestDigits:
    def test_first_half_trains_and_second_half_tests(self):
        from sklearn.datasets import load_digits

        digits, bundle = load("digits"), load_digits()
        assert (len(digits.train), len(digits.test), digits.classes) == (898, 899, 10)
        assert digits.image_shape == (1, 8, 8)
        assert digits.train.images.dtype == torch.float32
        both = torch.cat([digits.train.images, digits.test.images])[:, 0]
        assert torch.equal(both * 16, torch.from_numpy(bundle.images).float())
        assert torch.equal(torch.cat([digits.train.labels, digits.test.labels]), torch.from_numpy(bundle.target).long())

    def test_are_bundled_and_have_checksums_of_their_arrays(self):
        digits = load("digits", train_size="all")
        found = digits.provenance()
        assert found["status"] == "bundled"
        assert found["sha256"]["x_train"] == hashlib.sha256(digits.train.images.numpy().tobytes()).hexdigest()


class TestNames:
    def test_all_are_known(self):
        own = ("digits", "mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100", "svhn")
        medical = (
            "path",
            "derma",
            "oct",
            "pneumonia",
            "retina",
            "breast",
            "blood",
            "tissue",
            "organa",
            "organc",
            "organs",
        )
        assert (*own, *(f"{name}mnist" for name in medical)) == DATASETS

    @pytest.mark.parametrize("name", ["mnits", "", "MNIST", "~", "\0", "x" * 5000])
    def test_an_unknown_name_lists_the_known_ones(self, name, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path / "none"))
        refused(", ".join(DATASETS), "a folder of IDX files or an .npz file", name=name)

    @pytest.mark.parametrize("name", ["missing.npz", "no/such/folder", "~nobody-of-that-name/x.npz"])
    def test_a_missing_path_is_said_to_be_missing(self, name):
        refused("there is none of that name", name=name)

    def test_a_file_of_another_kind_is_refused(self, tmp_path):
        (tmp_path / "images.png").write_bytes(b"png")
        refused("this is another file", name=tmp_path / "images.png")

    def test_a_data_folder_that_is_none_is_refused(self, tmp_path):
        refused("data_dir", "none'", name="mnist", data_dir=tmp_path / "none")

    @pytest.mark.parametrize("name", OFFICIAL)
    def test_without_files_and_download_it_says_where_to_put_them(self, name, tmp_path):
        text = refused("download is off", tmp_path / "cache/atras", name=name, data_dir=tmp_path)
        folder = Path(text.split(" into ")[-1])
        assert folder.is_relative_to(tmp_path / "cache/atras")
        assert all(file in text for file in OFFICIAL[name].files)

    def test_files_put_there_by_hand_are_found(self, tmp_path):
        folder = Path(refused(name="fashion-mnist").split(" into ")[-1])
        write_idx(folder, arrays(), ".gz")
        assert len(load("fashion-mnist", download=False).train) == 6


class TestSizes:
    @pytest.mark.parametrize(("size", "taken"), [("default", 5000), (1, 1), (5007, 5007), ("all", 5007)])
    def test_images_are_taken_from_the_start(self, tmp_path, size, taken):
        made = arrays(train=5007, image=(1, 1))
        np.savez(tmp_path / "mine.npz", **made)
        found = load(str(tmp_path / "mine.npz"), train_size=size)
        assert np.array_equal(found.train.images[:, 0].numpy(), made["x_train"][:taken])
        assert np.array_equal(found.train.labels.numpy(), made["y_train"][:taken])
        assert (len(found.test), found.provenance()["train_size"]) == (4, taken)
        assert found.provenance()["train_available"] == 5007

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_more_than_there_are_is_refused(self, part):
        count = {"train": 898, "test": 899}[part]
        assert len(getattr(load("digits", **{f"{part}_size": count}), part)) == count
        refused(f"{part}_size (={count + 1})", f"digits has {count}", name="digits", **{f"{part}_size": count + 1})

    @pytest.mark.parametrize("size", [0, -1, 2.0, True, "some", None])
    def test_what_is_no_size_is_refused(self, size):
        refused(f"test_size (={size!r})", name="digits", test_size=size)


class TestPixels:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    def test_bytes_are_divided_by_255_and_correctly_rounded(self, dtype, device):
        if device == "cuda" and not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
        exact = torch.arange(256, dtype=torch.float64) / 255
        found = pixels(torch.arange(256, dtype=torch.uint8, device=device), dtype)
        assert found.dtype == dtype
        assert torch.equal(found.cpu(), exact.to(dtype))

    def test_floats_pass_through(self):
        images = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
        assert torch.equal(pixels(images, torch.float32), images)
        assert torch.equal(pixels(images, torch.float64), images.double())


def test_provenance_is_json(tmp_path):
    import json

    found = load(str(write_npz(tmp_path / "mine.npz"))).provenance()
    assert json.loads(json.dumps(found)) == found
    assert set(found["sha256"]) == {"x_train", "y_train", "x_test", "y_test"}


def test_it_imports_without_what_is_slow_or_optional():
    banned = ["polars", "pydantic", "rich", "torchvision", "typer", "sklearn", "scipy"]
    code = f"import sys, atras.data; print(*(name for name in {banned} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_no_official_file_is_shared_by_two_sets():
    known = [checksum for official in OFFICIAL.values() for file in official.files.values() for checksum in file]
    assert len(known) == len(set(known))
    assert all(len(checksum) in (32, 64) for checksum in known)
    assert official_files.recognise({}) is None


@pytest.mark.skipif("ATRAS_DATA" not in os.environ, reason="ATRAS_DATA is not set")
def test_real_mnist_is_recognised_and_in_the_official_order(tmp_path):
    if not Path(os.environ["ATRAS_DATA"], "MNIST", "raw").is_dir():
        pytest.skip("ATRAS_DATA holds no MNIST")
    found = load("mnist", data_dir=os.environ["ATRAS_DATA"], download=False)
    assert found.status == "official"
    assert (found.train.labels == 1).sum() == 563
    assert (found.test.labels == 1).sum() == 571
    packed = tmp_path / "packed"
    packed.mkdir()
    for file in IDX_FILES.values():
        with (Path(found.source) / file).open("rb") as source, gzip.open(packed / f"{file}.gz", "wb", 1) as target:
            shutil.copyfileobj(source, target)
    assert load(str(packed)).provenance()["sha256"] == found.provenance()["sha256"]


def test_a_named_set_is_looked_for_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def read(name: str, data_dir: object, *_: object) -> None:
        asked.append(data_dir)
        raise InputError(name)

    monkeypatch.setattr(datasets, "read_named", read)
    monkeypatch.setenv("ATRAS_DATA", str(tmp_path))
    for folder in (None, "elsewhere"):
        with pytest.raises(InputError):
            datasets.load("mnist", data_dir=folder)
    monkeypatch.delenv("ATRAS_DATA")
    with pytest.raises(InputError):
        datasets.load("mnist")
    assert asked == [str(tmp_path), "elsewhere", None]
