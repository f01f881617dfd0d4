"""The formats of CIFAR and SVHN: what is read, and what is refused in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from atras.data import file_contents, load
from atras.data.download import OFFICIAL
from atras.errors import InputError
from made_files import make_known, md5, refused


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class TestCifar:
    @staticmethod
    def write(folder, monkeypatch, name="cifar10", label_key="labels"):
        """Batches of two images each, made the official ones; returns images [N, 3, 32, 32] and labels by file."""
        folder.mkdir(parents=True)
        made, known = {}, {}
        for at, file in enumerate(OFFICIAL[name].files):
            images = np.random.default_rng(at).integers(0, 256, (2, 3072), dtype=np.uint8)
            content = pickle.dumps({"data": images, label_key: [at, 9 - at]}, protocol=2)
            (folder / file).write_bytes(content)
            made[file], known[file] = (images.reshape(2, 3, 32, 32), [at, 9 - at]), {md5(content)}
        make_known(monkeypatch, name, known)
        return made

    def test_batches_are_joined_in_the_official_order(self, tmp_path, monkeypatch):
        made = self.write(tmp_path / "cifar-10-batches-py", monkeypatch)
        found = load("cifar10", data_dir=tmp_path, download=False)
        *train, test = made.values()
        assert np.array_equal(found.train.images.numpy(), np.concatenate([images for images, _ in train]))
        assert found.train.labels.tolist() == [label for _, labels in train for label in labels]
        assert np.array_equal(found.test.images.numpy(), test[0])
        assert (found.status, found.classes, len(found.sha256)) == ("official", 10, 6)

    def test_cifar100_takes_the_fine_labels(self, tmp_path, monkeypatch):
        self.write(tmp_path / "cifar-100-python", monkeypatch, "cifar100", "fine_labels")
        found = load("cifar100", data_dir=tmp_path, download=False)
        assert (found.train.labels.tolist(), found.classes) == ([0, 9], 100)

    def test_a_batch_with_another_checksum_is_not_unpickled(self, tmp_path, monkeypatch):
        self.write(tmp_path / "cifar-10-batches-py", monkeypatch)
        mark = tmp_path / "ran"
        batch = tmp_path / "cifar-10-batches-py/data_batch_2"
        batch.write_bytes(pickle.dumps(_Runs(mark)))
        refused(batch, "expected MD5", "only the official one is opened", name="cifar10", data_dir=tmp_path)
        assert not mark.exists()

    def test_code_is_not_run_even_behind_the_right_checksum(self, tmp_path, monkeypatch):
        self.write(tmp_path / "cifar-10-batches-py", monkeypatch)
        mark = tmp_path / "ran"
        content = pickle.dumps(_Runs(mark))
        (tmp_path / "cifar-10-batches-py/data_batch_1").write_bytes(content)
        known = dict(OFFICIAL["cifar10"].files) | {"data_batch_1": {md5(content)}}
        make_known(monkeypatch, "cifar10", known)
        refused("neither a plain value nor a numpy array", name="cifar10", data_dir=tmp_path)
        assert not mark.exists()


class _Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestSvhn:
    @staticmethod
    def write(folder, packed=True, **changes):
        folder.mkdir(parents=True, exist_ok=True)
        images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
        variables = {"X": images, "y": np.array([[1], [10], [9], [2]], np.uint8)} | changes
        for part in ("train", "test"):
            scipy.io.savemat(folder / f"{part}_32x32.mat", variables, do_compression=packed)
        return images

    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
    def test_images_become_channels_first_and_ten_is_the_digit_zero(self, tmp_path, dtype, packed):
        images = self.write(tmp_path / "svhn", packed, y=np.array([[1], [10], [9], [2]], dtype))
        found = load("svhn", data_dir=tmp_path, download=False)
        assert np.array_equal(found.train.images.numpy(), images.transpose(3, 2, 0, 1))
        assert found.test.labels.tolist() == [1, 0, 9, 2]
        assert (found.status, found.classes) == ("unverified", 10)

    @pytest.mark.parametrize("packed", [True, False])
    def test_other_variables_are_passed_over(self, tmp_path, packed):
        others = {
            "A": "text",
            "Cell": np.array([["a", 1.5]], object),
            "Empty": np.zeros((0, 3)),
            "odd": np.ones((1, 3)),
        }
        images = self.write(tmp_path, packed, **others)
        own = scipy.io.loadmat(tmp_path / "train_32x32.mat", variable_names=["X", "y"])
        last = others | {"X": own["X"], "y": own["y"]}
        scipy.io.savemat(tmp_path / "train_32x32.mat", last, do_compression=packed)
        found = load("svhn", data_dir=tmp_path, download=False)
        assert np.array_equal(found.train.images.numpy(), images.transpose(3, 2, 0, 1))
        assert found.train.labels.tolist() == [1, 0, 9, 2]

    def test_official_files_are_recognised(self, tmp_path, monkeypatch):
        self.write(tmp_path)
        make_known(monkeypatch, "svhn", {f: {md5((tmp_path / f).read_bytes())} for f in OFFICIAL["svhn"].files})
        assert load("svhn", data_dir=tmp_path, download=False).status == "official"

    @pytest.mark.parametrize(
        ("changes", "parts"),
        [
            ({"X": np.zeros((32, 32, 3, 4))}, ("train_32x32.mat", "got X float64 32 x 32 x 3 x 4, y uint8 4 x 1")),
            ({"X": np.zeros((32, 32), np.uint8)}, ("train_32x32.mat", "got X uint8 32 x 32")),
            ({"X": np.array([["a"]], object)}, ("train_32x32.mat", "got y uint8")),
            ({"y": np.array([["a"]], object)}, ("train_32x32.mat", "got X uint8")),
            ({"X": "a", "y": "b"}, ("train_32x32.mat", "got neither")),
            ({"y": np.array([[1.5], [2], [3], [4]])}, ("y_train", "whole numbers")),
            ({"y": np.array([[np.inf], [2], [3], [4]])}, ("y_train", "whole numbers")),
            ({"y": np.array([[11], [2], [3], [4]], np.uint8)}, ("y_train", "got 11")),
            ({"y": np.array([[1], [2], [3]], np.uint8)}, ("y_train", "one label for each image (4)")),
        ],
    )
    def test_other_contents_are_refused(self, tmp_path, changes, parts):
        self.write(tmp_path, **changes)
        refused(*parts, name="svhn", data_dir=tmp_path)

    @pytest.mark.parametrize(
        ("damage", "part"),
        [
            (lambda b: b[:6000] + bytes(100) + b[6100:], "cannot be read"),
            (lambda b: b[:-10], "an element is cut short"),
            (lambda b: b[:6000], "an element is cut short"),
            (lambda b: b[:124] + b"\x01\x00MI" + b[128:], "no little-endian header"),
            (lambda b: b"not a MATLAB file", "no little-endian header"),
            (lambda b: b"", "no little-endian header"),
        ],
    )
    def test_a_damaged_file_is_refused(self, tmp_path, damage, part):
        self.write(tmp_path)
        file = tmp_path / "train_32x32.mat"
        file.write_bytes(damage(file.read_bytes()))
        refused(file, part, name="svhn", data_dir=tmp_path)

    def test_a_variable_that_comes_twice_is_refused(self, tmp_path):
        self.write(tmp_path, packed=False)
        file = tmp_path / "train_32x32.mat"
        content = file.read_bytes()
        file.write_bytes(content + content[128:])
        refused(file, "variable X came twice", name="svhn", data_dir=tmp_path)

    def test_a_header_that_its_data_cannot_fill_is_refused(self, tmp_path):
        self.write(tmp_path, packed=False)
        file = tmp_path / "train_32x32.mat"
        sizes = np.array([32, 32, 3, 4], "<i4").tobytes()
        file.write_bytes(file.read_bytes().replace(sizes, np.array([2**30, 32, 3, 4], "<i4").tobytes()))
        refused(f"{2**30} x 32 x 3 x 4 values are declared, 12288 are there", name="svhn", data_dir=tmp_path)

    def test_a_file_that_unpacks_to_too_much_is_refused(self, tmp_path, monkeypatch):
        self.write(tmp_path, X=np.zeros((32, 32, 3, 4), np.uint8))
        monkeypatch.setattr(file_contents, "MAX_UNPACKED_BYTES", 10_000)
        refused("unpacks to more than 10000 bytes", name="svhn", data_dir=tmp_path)

    @settings(max_examples=60, deadline=None)
    @given(at=st.integers(0, 500), value=st.integers(0, 255), packed=st.booleans())
    def test_any_damage_gives_arrays_or_one_line(self, tmp_path_factory, at, value, packed):
        folder = tmp_path_factory.mktemp("fuzz")
        self.write(folder, packed)
        content = bytearray((folder / "train_32x32.mat").read_bytes())
        content[at] = value
        (folder / "train_32x32.mat").write_bytes(content)
        text = ""
        try:
            load("svhn", data_dir=folder, download=False)
        except InputError as error:
            text = str(error)
        assert "\n" not in text
