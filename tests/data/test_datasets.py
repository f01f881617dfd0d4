"""Data sets: what is loaded, where from, and what is refused in one line. Downloads are in test_download.py."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atras.data import download as official_files
from atras.data import formats, load, pixels
from atras.data.datasets import DATASETS
from atras.data.download import OFFICIAL
from atras.data.formats import IDX_FILES
from atras.errors import InputError

MIB = 2**20


def arrays(train=6, test=4, image=(5, 5), classes=3, dtype=np.uint8):
    """Images and labels by name; every class is there."""
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", train), ("test", test)):
        images = rng.integers(0, 256, (count, *image), dtype=np.uint8)
        made[f"x_{part}"] = images if dtype == np.uint8 else (images / 255).astype(dtype)
        made[f"y_{part}"] = np.arange(count) % classes
    return made


def idx_bytes(array, kind=8):
    header = bytes((0, 0, kind, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, made, suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in IDX_FILES.items():
        content = idx_bytes(made[name])
        (folder / f"{file}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


def write_npz(path, **changes):
    np.savez(path, **(arrays() | changes))
    return path


def refused(*parts, name, **options):
    """The error text of a load, which must be one line and contain all parts."""
    with pytest.raises(InputError) as caught:
        load(str(name), download=False, **options)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text
    return text


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_known(monkeypatch, name, files):
    """Make these contents the official ones."""
    known = {file: frozenset(checksums) for file, checksums in files.items()}
    monkeypatch.setitem(OFFICIAL, name, dataclasses.replace(OFFICIAL[name], files=known))


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


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


class TestIdx:
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_a_folder_is_read_plain_or_compressed(self, tmp_path, suffix):
        made = arrays(image=(5, 7))
        found = load(str(write_idx(tmp_path / "mine", made, suffix)))
        assert found.train.images.dtype == torch.uint8
        assert found.train.images.is_contiguous()
        assert np.array_equal(found.train.images[:, 0].numpy(), made["x_train"])
        assert np.array_equal(found.test.labels.numpy(), made["y_test"])
        assert found.test.labels.dtype == torch.int64
        assert (found.name, found.classes, found.image_shape) == ("mine", 3, (1, 5, 7))

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_checksums_are_of_the_uncompressed_files(self, tmp_path, suffix):
        made = arrays()
        found = load(str(write_idx(tmp_path / "mine", made, suffix))).provenance()
        assert found["sha256"] == {
            file: hashlib.sha256(idx_bytes(made[name])).hexdigest() for name, file in IDX_FILES.items()
        }
        assert found["status"] == "unverified"

    @pytest.mark.parametrize("below", ["MNIST/raw", "mnist", "mnist/MNIST/raw", "."])
    def test_a_named_set_is_found_in_the_data_folder(self, tmp_path, below):
        made = arrays()
        write_idx(tmp_path / "data" / below, made)
        found = load("mnist", data_dir=tmp_path / "data", download=False)
        assert (found.name, found.classes, found.status) == ("mnist", 10, "unverified")
        assert np.array_equal(found.train.images[:, 0].numpy(), made["x_train"])

    def test_a_named_set_is_found_in_the_cache_and_the_data_folder_comes_first(self, tmp_path):
        write_idx(tmp_path / "cache/atras/KMNIST/raw", arrays(train=7))
        assert load("kmnist", download=False).provenance()["train_available"] == 7
        write_idx(tmp_path / "data/KMNIST/raw", arrays(train=8))
        assert load("kmnist", data_dir=tmp_path / "data", download=False).provenance()["train_available"] == 8

    def test_torchvisions_layout_below_a_given_folder_is_found(self, tmp_path):
        write_idx(tmp_path / "data/FashionMNIST/raw", arrays())
        assert len(load(str(tmp_path / "data")).train) == 6
        write_idx(tmp_path / "data/MNIST/raw", arrays())
        refused("got several", tmp_path / "data/MNIST/raw", name=tmp_path / "data")

    def test_official_files_are_recognised_by_sha256_in_any_folder(self, tmp_path, monkeypatch):
        made = arrays()
        digests = {file: {hashlib.sha256(idx_bytes(made[name])).hexdigest()} for name, file in IDX_FILES.items()}
        make_known(monkeypatch, "mnist", digests)
        found = load(str(write_idx(tmp_path / "mine", made, ".gz")))
        assert (found.name, found.status) == ("mnist", "official")
        made["y_test"][0] += 1
        assert load(str(write_idx(tmp_path / "other", made))).status == "unverified"

    def test_official_downloads_are_recognised_by_md5_and_preferred_where_only_that_is_known(
        self, tmp_path, monkeypatch
    ):
        folder = tmp_path / "data/KMNIST/raw"
        write_idx(folder, arrays(), ".gz")
        make_known(monkeypatch, "kmnist", {f: {md5((folder / f"{f}.gz").read_bytes())} for f in IDX_FILES.values()})
        write_idx(folder, arrays(train=2))
        found = load("kmnist", data_dir=tmp_path / "data")
        assert (found.status, len(found.train)) == ("official", 6)

    def test_another_official_set_under_this_name_is_refused(self, tmp_path, monkeypatch):
        made = arrays()
        write_idx(tmp_path / "data", made)
        digests = {file: {hashlib.sha256(idx_bytes(made[name])).hexdigest()} for name, file in IDX_FILES.items()}
        make_known(monkeypatch, "mnist", digests)
        refused("are those of mnist", name="kmnist", data_dir=tmp_path / "data")

    @pytest.mark.parametrize(
        ("damage", "part"),
        [
            (lambda b: b"\x01" + b[1:], "expected an IDX file of unsigned bytes with 3 axes"),
            (lambda b: b[:2] + b"\x0d" + b[3:], "starting 00 00 08 03"),
            (lambda b: b[:3] + b"\x01" + b[4:], "got 00 00 08 01"),
            (lambda b: b[:9], "then the sizes"),
            (lambda b: b"", "got nothing"),
            (lambda b: b[:-1], "the file holds at most 149"),
            (lambda b: b + b"x", "the file holds more"),
            (lambda b: b[:4] + b"\xff" * 12 + b[16:], "the file holds at most 150"),
            (lambda b: gzip.compress(b)[:-20], "cannot be read"),
            (lambda b: gzip.compress(b)[:-8] + b"\0" * 8, "cannot be read"),
            (lambda b: gzip.compress(b[:-1]), "the file holds 149"),
            (lambda b: gzip.compress(b[:4] + b"\xff" * 12 + b[16:]), "the file holds at most"),
        ],
    )
    def test_malformed_files_are_refused(self, tmp_path, damage, part):
        folder = write_idx(tmp_path / "mine", arrays())
        file = folder / IDX_FILES["x_train"]
        file.write_bytes(damage(file.read_bytes()))
        refused(file, part, name=folder)

    def test_a_header_allocates_nothing_that_the_file_cannot_hold(self, tmp_path):
        folder = write_idx(tmp_path / "mine", arrays())
        (folder / IDX_FILES["x_train"]).write_bytes(
            gzip.compress(bytes((0, 0, 8, 3, 0, 0, 255, 255, 0, 0, 64, 0, 0, 0, 64, 0)))
        )
        tracemalloc.start()
        refused("the file holds at most", name=folder)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MIB

    def test_a_compressed_file_that_unpacks_to_too_much_is_refused(self, tmp_path, monkeypatch):
        made = arrays()
        made["x_train"][:] = 0
        folder = write_idx(tmp_path / "mine", made, ".gz")
        monkeypatch.setattr(formats, "MAX_UNPACKED_BYTES", 100)
        refused("the file holds at most 100", name=folder)

    def test_a_folder_that_lacks_a_file_is_refused(self, tmp_path):
        folder = write_idx(tmp_path / "mine", arrays())
        (folder / IDX_FILES["y_test"]).unlink()
        refused("t10k-labels-idx1-ubyte", "not all are there", name=folder)

    def test_labels_that_a_named_set_does_not_have_are_refused(self, tmp_path):
        write_idx(tmp_path / "data", arrays(train=11, classes=11))
        refused("expected labels from 0 to 9, got 10", name="mnist", data_dir=tmp_path / "data")

    def test_fewer_labels_than_images_are_refused(self, tmp_path):
        made = arrays()
        refused("one label for each of 6", name=write_idx(tmp_path / "mine", made | {"y_train": made["y_train"][:5]}))

    @settings(max_examples=60, deadline=None)
    @given(at=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 400), packed=st.booleans())
    def test_any_damage_gives_an_array_or_one_line(self, tmp_path_factory, at, value, cut, packed):
        content = bytearray(gzip.compress(idx_bytes(arrays()["x_train"])) if packed else idx_bytes(arrays()["x_train"]))
        content[at % len(content)] = value
        path = tmp_path_factory.mktemp("fuzz") / "file"
        path.write_bytes(bytes(content[: max(len(content) - cut, 0)]) if cut % 2 else bytes(content))
        text = ""
        try:
            formats.read_idx(path, 3)
        except InputError as error:
            text = str(error)
        assert "\n" not in text


class TestNpz:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    @pytest.mark.parametrize("image", [(5, 7), (5, 7, 1), (5, 7, 3)])
    def test_images_become_channels_first_and_stay_uint8(self, tmp_path, image, save):
        made = arrays(image=image)
        save(tmp_path / "mine.npz", **made)
        found = load(str(tmp_path / "mine.npz"))
        expected = made["x_train"].reshape(6, 5, 7, -1).transpose(0, 3, 1, 2)
        assert np.array_equal(found.train.images.numpy(), expected)
        assert found.train.images.dtype == torch.uint8
        assert found.train.images.is_contiguous()
        assert (found.name, found.classes, found.status) == ("mine", 3, "unverified")

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
    def test_floats_become_float32(self, tmp_path, dtype):
        made = arrays(dtype=np.dtype(dtype))
        np.savez(tmp_path / "mine.npz", **made)
        images = load(str(tmp_path / "mine.npz")).train.images
        assert images.dtype == torch.float32
        assert np.array_equal(images[:, 0].numpy(), made["x_train"].astype(np.float32))

    def test_column_major_arrays_are_read_in_their_order(self, tmp_path):
        made = arrays(image=(5, 7, 3))
        np.savez(tmp_path / "mine.npz", **(made | {"x_train": np.asfortranarray(made["x_train"])}))
        found = load(str(tmp_path / "mine.npz"))
        assert np.array_equal(found.train.images.numpy(), made["x_train"].transpose(0, 3, 1, 2))
        assert found.sha256["x_train"] == hashlib.sha256(made["x_train"].tobytes()).hexdigest()

    @pytest.mark.parametrize("dtype", ["uint8", "int32", ">i8", "uint64"])
    def test_labels_of_any_whole_type_and_as_a_column_are_taken(self, tmp_path, dtype):
        labels = arrays()["y_train"].astype(dtype)
        found = load(str(write_npz(tmp_path / "mine.npz", y_train=labels[:, None])))
        assert found.train.labels.tolist() == labels.tolist()
        assert found.train.labels.dtype == torch.int64

    def test_classes_are_counted_over_both_parts(self, tmp_path):
        assert load(str(write_npz(tmp_path / "mine.npz", y_test=np.array([0, 1, 6, 0])))).classes == 7

    def test_extra_arrays_are_ignored(self, tmp_path):
        assert len(load(str(write_npz(tmp_path / "mine.npz", notes=np.array([{}], object)))).train) == 6

    @pytest.mark.parametrize(
        ("changes", "parts"),
        [
            ({"x_train": np.full((6, 5, 5), 0.5, object)}, ("x_train", "expected numbers, got dtype object")),
            ({"y_train": np.array([{}] * 6, object)}, ("y_train", "expected numbers, got dtype object")),
            ({"x_train": np.zeros((6, 25), np.uint8)}, ("x_train", "[N, H, W] or [N, H, W, C]", "(6, 25)")),
            ({"x_train": np.zeros((6, 0, 5), np.uint8)}, ("at least one image", "(6, 0, 5)")),
            ({"x_train": np.zeros((0, 5, 5), np.uint8), "y_train": np.zeros(0, int)}, ("at least one image",)),
            ({"x_train": np.zeros((6, 3, 32, 32), np.uint8)}, ("(6, 3, 32, 32), which is [N, C, H, W]",)),
            ({"x_train": np.zeros((6, 5, 5), np.int64)}, ("expected uint8, or floats in [0, 1], got int64",)),
            ({"x_train": np.zeros((6, 5, 5), bool)}, ("got bool",)),
            ({"x_train": np.full((6, 5, 5), 255.0)}, ("expected pixels in [0, 1], got 255 to 255", "uint8")),
            ({"x_train": np.full((6, 5, 5), -0.001)}, ("expected pixels in [0, 1], got -0.001",)),
            ({"x_train": np.full((6, 5, 5), 1.0000001)}, ("expected pixels in [0, 1], got 1.0000001",)),
            ({"x_train": np.full((6, 5, 5), np.inf)}, ("expected pixels in [0, 1], got inf",)),
            ({"x_test": np.full((4, 5, 5), np.nan)}, ("x_test", "got 100 that are NaN")),
            ({"x_test": np.zeros((4, 5, 6), np.uint8)}, ("training shape (5, 5), got (5, 6)",)),
            ({"y_train": np.zeros(5, int)}, ("one label for each of 6 images, got (5,)",)),
            ({"y_train": np.zeros((6, 3), int)}, ("one label for each of 6 images, got (6, 3)",)),
            ({"y_train": np.zeros(6)}, ("y_train", "expected whole numbers from 0, got float64")),
            ({"y_train": np.array([0, 1, 2, -1, 0, 1])}, ("y_train", "got -1")),
            ({"y_train": np.array([0, 1, 2, 10**12, 0, 1])}, ("y_train", "expected labels from 0 to 65535")),
            ({"y_train": np.array([0, 1, 2, 2**64 - 1, 0, 1], np.uint64)}, (f"got {2**64 - 1}",)),
            ({"y_train": np.zeros(6, int), "y_test": np.zeros(4, int)}, ("at least 2 classes",)),
        ],
    )
    def test_contents_out_of_range_are_refused(self, tmp_path, changes, parts):
        refused(*parts, "mine.npz", name=write_npz(tmp_path / "mine.npz", **changes))

    def test_missing_arrays_are_named(self, tmp_path):
        np.savez(tmp_path / "mine.npz", x_train=np.zeros(3), images=np.zeros(3))
        refused("got 'x_train', 'images'", "add y_train, x_test, y_test", name=tmp_path / "mine.npz")

    @pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
    def test_what_is_no_archive_is_refused(self, tmp_path, content):
        (tmp_path / "mine.npz").write_bytes(content)
        refused("expected an .npz file", "cannot be read", name=tmp_path / "mine.npz")

    def test_an_array_that_comes_twice_is_refused(self, tmp_path):
        path = write_npz(tmp_path / "mine.npz")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("x_test", archive.read("x_test.npy"))
        refused("array x_test came twice", name=path)

    def test_names_that_lead_elsewhere_are_only_names(self, tmp_path):
        path = write_npz(tmp_path / "mine.npz")
        with zipfile.ZipFile(path, "a") as archive:
            for name in ("../x_train.npy", "/x_train.npy", "sub/x_train.npy"):
                archive.writestr(name, b"hostile")
        before = sorted(tmp_path.rglob("*"))
        assert len(load(str(path)).train) == 6
        assert sorted(tmp_path.rglob("*")) == before

    def test_encrypted_members_are_refused(self, tmp_path):
        path = write_npz(tmp_path / "mine.npz")
        content = bytearray(path.read_bytes())
        for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(mark) + flags] |= 1
        path.write_bytes(content)
        refused("cannot be read", "encrypted", name=path)

    def test_a_header_as_python_2_wrote_it_is_read_without_a_warning(self, tmp_path):
        path = write_npz(tmp_path / "mine.npz")
        with zipfile.ZipFile(path) as archive:
            members = {entry: archive.read(entry) for entry in archive.namelist()}
        members["y_test.npy"] = members["y_test.npy"].replace(b"(4,), } ", b"(4L,), }")
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in members.items():
                archive.writestr(entry, content)
        assert len(load(str(path)).test) == 4

    def test_damaged_data_are_refused(self, tmp_path):
        path = write_npz(tmp_path / "mine.npz")
        content = path.read_bytes()
        images = arrays()["x_train"].tobytes()
        path.write_bytes(content.replace(images, images[:-1] + bytes([images[-1] ^ 1])))
        refused("cannot be read", "CRC", name=path)

    @pytest.mark.parametrize("shape", ["(1000000000, 1000, 1000)", "(-6, -5, 5)", "(6, 5, 6)"])
    def test_a_header_that_its_data_cannot_fill_is_refused(self, tmp_path, shape):
        path = write_npz(tmp_path / "mine.npz")
        with zipfile.ZipFile(path) as archive:
            members = {entry: archive.read(entry) for entry in archive.namelist()}
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        body = arrays()["x_train"].tobytes()
        members["x_train.npy"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in members.items():
                archive.writestr(entry, content)
        tracemalloc.start()
        refused("x_train", "its header declares", "the archive holds 150", name=path)
        assert tracemalloc.get_traced_memory()[1] < MIB
        tracemalloc.stop()

    def test_an_archive_that_unpacks_to_too_much_is_refused_unread(self, tmp_path, monkeypatch):
        np.savez_compressed(tmp_path / "bomb.npz", **(arrays() | {"x_train": np.zeros((16, MIB), np.uint8)}))
        monkeypatch.setattr(formats, "MAX_UNPACKED_BYTES", 8 * MIB)
        tracemalloc.start()
        refused(f"of which {8 * MIB} are allowed", name=tmp_path / "bomb.npz")
        assert tracemalloc.get_traced_memory()[1] < MIB
        tracemalloc.stop()

    def test_a_large_file_that_is_not_compressed_is_no_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setattr(formats, "MAX_UNPACKED_BYTES", 10)
        assert len(load(str(write_npz(tmp_path / "mine.npz"))).train) == 6

    @settings(max_examples=60, deadline=None)
    @given(at=st.integers(0, 5000), value=st.integers(0, 255), packed=st.booleans())
    def test_any_damage_gives_arrays_or_one_line(self, tmp_path_factory, at, value, packed):
        target = io.BytesIO()
        (np.savez_compressed if packed else np.savez)(target, **arrays())
        content = bytearray(target.getvalue())
        content[at % len(content)] = value
        path = tmp_path_factory.mktemp("fuzz") / "mine.npz"
        path.write_bytes(bytes(content))
        text = ""
        try:
            load(str(path))
        except InputError as error:
            text = str(error)
        assert "\n" not in text


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
            ({"y": np.array([[1], [2], [3]], np.uint8)}, ("y_train", "one label for each of 4")),
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
        monkeypatch.setattr(formats, "MAX_UNPACKED_BYTES", 10_000)
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


class TestNames:
    def test_all_are_known(self):
        assert DATASETS == ("digits", "mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100", "svhn")

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
