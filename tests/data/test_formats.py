"""Files of images that a user brings, IDX and npz: what is read, and what is refused in one line."""

from __future__ import annotations

import gzip
import hashlib
import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atras.data import file_contents, load
from atras.data.idx_file import IDX_FILES, read_idx
from atras.errors import InputError
from made_files import MIB, arrays, idx_bytes, make_known, md5, refused, write_idx, write_npz


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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

    def test_a_user_without_a_home_needs_no_cache_where_the_data_folder_has_the_files(self, tmp_path, monkeypatch):
        def none(_):
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", classmethod(none))
        write_idx(tmp_path / "data/MNIST/raw", arrays())
        assert len(load("mnist", data_dir=tmp_path / "data", download=False).train) == 6
        refused("this user has no home", name="kmnist", data_dir=tmp_path / "data")

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
        monkeypatch.setattr(file_contents, "MAX_UNPACKED_BYTES", 100)
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
        refused(
            "one label for each image (6)", name=write_idx(tmp_path / "mine", made | {"y_train": made["y_train"][:5]})
        )

    @settings(max_examples=60, deadline=None)
    @given(at=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 400), packed=st.booleans())
    def test_any_damage_gives_an_array_or_one_line(self, tmp_path_factory, at, value, cut, packed):
        content = bytearray(gzip.compress(idx_bytes(arrays()["x_train"])) if packed else idx_bytes(arrays()["x_train"]))
        content[at % len(content)] = value
        path = tmp_path_factory.mktemp("fuzz") / "file"
        path.write_bytes(bytes(content[: max(len(content) - cut, 0)]) if cut % 2 else bytes(content))
        text = ""
        try:
            read_idx(path, 3)
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
            ({"x_train": np.zeros((6, 5, 5), np.int64)}, ("expected uint8, or floats in [0, 1], got int64",)),
            ({"x_train": np.zeros((6, 5, 5), bool)}, ("got bool",)),
            ({"x_train": np.full((6, 5, 5), 255.0)}, ("expected pixels in [0, 1], got 255 to 255", "uint8")),
            ({"x_train": np.full((6, 5, 5), -0.001)}, ("expected pixels in [0, 1], got -0.001",)),
            ({"x_train": np.full((6, 5, 5), 1.0000001)}, ("expected pixels in [0, 1], got 1.0000001",)),
            ({"x_train": np.full((6, 5, 5), np.inf)}, ("expected pixels in [0, 1], got inf",)),
            ({"x_test": np.full((4, 5, 5), np.nan)}, ("x_test", "got 100 that are NaN")),
            ({"x_test": np.zeros((4, 5, 6), np.uint8)}, ("training shape (5, 5), got (5, 6)",)),
            ({"y_train": np.zeros(5, int)}, ("one label for each image (6), got (5,)",)),
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
        monkeypatch.setattr(file_contents, "MAX_UNPACKED_BYTES", 8 * MIB)
        tracemalloc.start()
        refused(f"of which {8 * MIB} are allowed", name=tmp_path / "bomb.npz")
        assert tracemalloc.get_traced_memory()[1] < MIB
        tracemalloc.stop()

    def test_a_large_file_that_is_not_compressed_is_no_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setattr(file_contents, "MAX_UNPACKED_BYTES", 10)
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
