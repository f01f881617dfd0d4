"""Images that stay in their file: the same ones, and none of them in memory."""

from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from atras.data import StoredImages, load, npz_file
from atras.errors import InputError
from atras.storage import in_file, scratch_array, scratch_folder

DRAW = np.random.default_rng(0)
LABELS = {"y_train": np.arange(40) % 4, "y_test": np.arange(12) % 4}


def arrays(shape: tuple[int, ...], dtype: str) -> dict[str, np.ndarray]:
    made = {}
    for name, count in (("x_train", 40), ("x_test", 12)):
        values = DRAW.random((count, *shape))
        made[name] = (values * 255).astype(np.uint8) if dtype == "uint8" else values.astype(dtype)
    return made


@pytest.mark.parametrize("subset", ["first", "stratified"])
@pytest.mark.parametrize(
    ("shape", "dtype", "compressed", "fortran"),
    [
        ((5, 6), "uint8", False, False), ((5, 6, 3), "uint8", False, False), ((3, 5, 6), "float64", False, True),
        ((5, 6, 3), "float16", True, False),
    ],
)  # fmt: skip
def test_stored_images_are_the_resident_ones(
    shape: tuple[int, ...], dtype: str, compressed: bool, fortran: bool, subset: str, tmp_path: Path
) -> None:
    images = {name: np.asarray(each, order="F" if fortran else "C") for name, each in arrays(shape, dtype).items()}
    (np.savez_compressed if compressed else np.savez)(tmp_path / "set.npz", **images, **LABELS)  # type: ignore[arg-type]
    chosen = {"train_size": 30, "test_size": 11, "subset": subset}
    resident = load(str(tmp_path / "set.npz"), **chosen)  # type: ignore[arg-type]
    streamed = load(str(tmp_path / "set.npz"), **chosen, room=resident.image_bytes - 1)  # type: ignore[arg-type]
    assert (resident.streamed, streamed.streamed) == (False, True)
    assert streamed.provenance() == resident.provenance()
    for name in ("train", "test"):
        one, other = getattr(streamed, name), getattr(resident, name)
        assert isinstance(one.images, StoredImages)
        assert in_file(one.images._source)
        assert (one.images.shape, one.images.dtype) == (other.images.shape, other.images.dtype)
        for index in (slice(3, 9), torch.tensor([[7, 0], [7, 2]]), 4):
            assert torch.equal(one.images[index], other.images[index])
        assert torch.equal(one.labels, other.labels)
    assert streamed.image_bytes == resident.image_bytes


def test_plain_npz_and_idx_files_are_mapped_and_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays((5, 6), "uint8"), **LABELS)
    read = npz_file.read_npz(tmp_path / "set.npz").arrays
    assert all(map(in_file, read.values()))
    folder = tmp_path / "idx"
    folder.mkdir()
    names = {"x_train": "train-images-idx3-ubyte", "x_test": "t10k-images-idx3-ubyte"}
    names |= {"y_train": "train-labels-idx1-ubyte", "y_test": "t10k-labels-idx1-ubyte"}
    for name, file in names.items():
        values = read[name].astype(np.uint8)
        header = bytes((0, 0, 8, values.ndim)) + b"".join(side.to_bytes(4, "big") for side in values.shape)
        (folder / file).write_bytes(header + values.tobytes())
    mapped = load(str(folder), room=1)
    packed = tmp_path / "packed"
    packed.mkdir()
    for file in names.values():
        (packed / f"{file}.gz").write_bytes(gzip.compress((folder / file).read_bytes()))
    unpacked = load(str(packed), room=1)
    for data in (mapped, unpacked):
        assert isinstance(data.train.images, StoredImages)
        assert in_file(data.train.images._source)
        assert torch.equal(data.train.images[:], torch.from_numpy(read["x_train"][:, None].copy()))
    assert mapped.sha256 == unpacked.sha256


def test_a_compressed_array_too_large_for_memory_is_unpacked_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = arrays((5, 6), "uint8")
    np.savez_compressed(tmp_path / "set.npz", **images, **LABELS)
    monkeypatch.setattr(npz_file, "MOST_IN_MEMORY", 1000)
    monkeypatch.setattr(npz_file, "PIECE", 64)
    read = npz_file.read_npz(tmp_path / "set.npz").arrays
    assert in_file(read["x_train"])
    assert not in_file(read["y_test"])
    assert all(np.array_equal(read[name], each) for name, each in images.items())


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_of_a_mapped_array_is_named(compressed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays((5, 6), "uint8"), **LABELS)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("x_test.npy")
    content = bytearray(path.read_bytes())
    content[info.header_offset + 40 + info.compress_size // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(npz_file, "MOST_IN_MEMORY", 1000 if compressed else 2**28)
    with pytest.raises(InputError, match=r"set\.npz: expected an \.npz file"):
        load(str(path))


def test_scratch_files_have_no_name_and_need_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert scratch_folder() == tmp_path
    kept = scratch_array((3, 5), np.float32)
    assert in_file(kept)
    assert not kept.any()
    kept[1] = 2
    assert list(tmp_path.iterdir()) == []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    def unable(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", unable)
        assert scratch_array((5, 7), np.int8).shape == (5, 7)
    with pytest.raises(InputError, match=r"expected room for 1 MiB.*No space left on device.*TMPDIR"):
        scratch_array((1024, 1024), np.int8)
