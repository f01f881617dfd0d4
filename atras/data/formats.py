"""Readers that turn each file format into arrays: IDX, npz, CIFAR's pickled batches, SVHN's MATLAB files.

Files come from anywhere. Nothing is allocated from a header before the header was held against the size of its file,
and nothing is unpickled whose checksum is not the official one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atras.errors import InputError
from atras.storage import memory_limit, open_regular, read_regular

MAX_UNPACKED_BYTES = 2 * 2**30
"""Most bytes a compressed file may unpack to, unless the file itself is larger."""

MAX_CIFAR_BYTES = 2**28
"""Most bytes of a pickled CIFAR batch; the largest official one has 155 million."""

MAX_DEFLATE_RATIO = 1032
"""Most bytes that deflate can make of one byte."""

IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
"""MNIST's file names by the array that they hold. Each file may also be there with `.gz` behind its name."""

ARRAYS = tuple(IDX_FILES)


@dataclass(frozen=True)
class Contents:
    """The content of one file.

    Args:
        array: the data. Read-only where it shares memory with the file's bytes.
        sha256: of the file, uncompressed.
        md5: of the file as it lies on the disk; None where no official one could match.
    """

    array: np.ndarray
    sha256: str
    md5: str | None


def read_idx(path: Path, axes: int) -> Contents:
    """Read one IDX file of unsigned bytes, plain or gzip-compressed.

    Args:
        path: the file.
        axes: 3 for images [N, H, W], 1 for labels [N].

    Returns:
        The uint8 array and the checksums; the MD5 only for a compressed file.

    Raises:
        InputError: if the file cannot be read, its header is another one or its length is not what the header says.

    Source: http://yann.lecun.com/exdb/mnist/, "the IDX file format".
    """
    with _damage_named(path, "an IDX file"):
        stored = read_regular(path, memory_limit())
        packed = stored[:2] == b"\x1f\x8b"
        stream = gzip.GzipFile(fileobj=io.BytesIO(stored)) if packed else io.BytesIO(stored)
        header = stream.read(4 + 4 * axes)
        shape = _idx_shape(path, header, axes)
        declared = math.prod(shape)
        possible = _most_unpacked(len(stored)) if packed else len(stored) - len(header)
        if declared > possible:
            raise _another_length(path, shape, f"at most {possible}")
        # One byte more than declared shows a longer file, and takes gzip to its checksum.
        body = stream.read(declared + 1)
        if len(body) != declared:
            raise _another_length(path, shape, "more" if len(body) > declared else str(len(body)))
    sha256 = hashlib.sha256(header)
    sha256.update(body)
    return Contents(np.frombuffer(body, np.uint8).reshape(shape), sha256.hexdigest(), _md5(stored) if packed else None)


def _idx_shape(path: Path, header: bytes, axes: int) -> tuple[int, ...]:
    expected = bytes((0, 0, 8, axes))
    if header[:4] != expected or len(header) != 4 + 4 * axes:
        raise InputError(
            f"{path}: expected an IDX file of unsigned bytes with {axes} {'axis' if axes == 1 else 'axes'}, starting "
            f"{expected.hex(' ')}, then the sizes; got {header.hex(' ') or 'nothing'}; fetch the file again"
        )
    return tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4))


def _another_length(path: Path, shape: tuple[int, ...], held: str) -> InputError:
    return InputError(
        f"{path}: its header declares {_times(shape)} = {math.prod(shape)} bytes, the file holds {held}; "
        "it is cut short or damaged, so fetch it again"
    )


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read x_train, y_train, x_test and y_test of an `.npz` file.

    Every header is checked against its size in the archive, and their sum against a limit, before any data is read.

    Args:
        path: the file, as `numpy.savez` or `numpy.savez_compressed` writes it.

    Returns:
        The arrays by name, of any shape and numeric dtype.

    Raises:
        InputError: if the file cannot be read, lacks one of the arrays, holds objects or unpacks to too much.
    """
    with (
        _damage_named(path, "an .npz file"),
        open_regular(path, memory_limit()) as file,
        zipfile.ZipFile(file) as archive,
    ):
        members: dict[str, zipfile.ZipInfo] = {}
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name in ARRAYS and name in members:
                raise InputError(f"{path}: array {name} came twice; make the file anew with numpy.savez")
            members[name] = entry
        missing = [name for name in ARRAYS if name not in members]
        if missing:
            there = ", ".join(repr(name) for name in list(members)[:8]) or "nothing"
            raise InputError(f"{path}: expected arrays {', '.join(ARRAYS)}, got {there}; add {', '.join(missing)}")
        total, limit = sum(members[name].file_size for name in ARRAYS), max(MAX_UNPACKED_BYTES, path.stat().st_size)
        if total > limit:
            raise InputError(
                f"{path}: its arrays unpack to {total} bytes, of which {limit} are allowed; "
                "store fewer images, or store them uncompressed with numpy.savez"
            )
        return {name: _read_npy(f"{name} in {path}", archive, members[name]) for name in ARRAYS}


def _read_npy(where: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The module unpacks other methods without heed to how much it was asked for.
        raise InputError(f"{where}: expected no compression or deflate; make the file anew with numpy.savez")
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(member)
        else:
            raise InputError(f"{where}: expected .npy version 1.0 or 2.0, got {version}; save it anew with numpy.savez")
        if dtype.kind not in "uifb":
            raise InputError(f"{where}: expected numbers, got dtype {dtype.name}; save it as uint8, int64 or float32")
        declared = math.prod(shape) * dtype.itemsize
        held = entry.file_size - member.tell()
        if declared != held or min(shape, default=0) < 0:
            raise InputError(
                f"{where}: its header declares {_times(shape)} of {dtype.name} = {declared} bytes, "
                f"the archive holds {held}; the file is damaged, so make it anew"
            )
        # Reading to the declared end lets zipfile compare the checksum; without a count it would unpack a GiB at once.
        return np.frombuffer(member.read(held), dtype).reshape(shape, order="F" if fortran_order else "C")


def read_cifar(path: Path, md5: frozenset[str], label_key: str) -> tuple[Contents, np.ndarray]:
    """Read one pickled batch of the official CIFAR-10 or CIFAR-100 archive.

    Args:
        path: the batch, such as `cifar-10-batches-py/data_batch_1`.
        md5: the official checksums of that batch. Any other file is not unpickled.
        label_key: `labels` or `fine_labels`.

    Returns:
        Images uint8 [N, 32, 32, 3] with their checksums, and labels int64 [N].

    Raises:
        InputError: if the checksum is another one, or the batch holds something else.
    """
    with _damage_named(path, "a pickled CIFAR batch"):
        stored = read_regular(path, MAX_CIFAR_BYTES)
        digest = _md5(stored)
        if digest not in md5:
            raise InputError(
                f"{path}: expected MD5 {' or '.join(md5)}, got {digest}; a pickle can run code, so only the official "
                "one is opened: delete it to have it downloaded again, or give the images as an .npz file"
            )
        batch = _PlainUnpickler(io.BytesIO(stored), encoding="latin1").load()
        images, labels = batch["data"], np.array(batch[label_key], np.int64)
        images = images.reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1)
    return Contents(images, hashlib.sha256(stored).hexdigest(), digest), labels


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles plain Python values and numpy arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            # The module was renamed in numpy 2; an array itself knows the function under either name.
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module == "_codecs" and name == "encode":
            return _encode_latin1
        raise pickle.UnpicklingError(f"{module}.{name}, which is neither a plain value nor a numpy array")


def _encode_latin1(text: str, _: str) -> bytes:
    """The function that Python 3's pickles at protocol 2 call to rebuild bytes."""
    return text.encode("latin1")


def read_svhn(path: Path) -> tuple[Contents, np.ndarray]:
    """Read one cropped-digits file of SVHN.

    scipy's reader is not used: damaged files make it crash the process.

    Args:
        path: `train_32x32.mat` or `test_32x32.mat`, MATLAB format 5.

    Returns:
        Images uint8 [N, H, W, 3] with their checksums, and labels [N]; the digit 0, stored as 10, is label 0.

    Raises:
        InputError: if the file is another one or damaged.
    """
    kind = "a MATLAB 5 file with X (uint8, H x W x 3 x N) and y (N x 1)"
    with _damage_named(path, kind):
        stored = read_regular(path, memory_limit())
        arrays = _mat_arrays(stored, ("X", "y"))
        shown = ", ".join(f"{name} {array.dtype.name} {_times(array.shape)}" for name, array in arrays.items())
        images, labels = arrays.get("X", np.empty(0)), arrays.get("y", np.empty(0)).reshape(-1)
        if len(arrays) != 2 or images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != 3:
            raise InputError(f"{path}: expected {kind}, got {shown or 'neither'}; fetch it again")
        if labels.dtype.kind == "f" and (np.isfinite(labels) & (np.floor(labels) == labels)).all():
            labels = labels.astype(np.int64)
    sha256 = hashlib.sha256(stored).hexdigest()
    return Contents(images.transpose(3, 0, 1, 2), sha256, _md5(stored)), np.where(labels == 10, 0, labels)


_MAT_DTYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_MAT_ARRAY, _MAT_COMPRESSED = 14, 15
_MAT_NUMERIC_CLASSES = range(6, 16)


def _mat_arrays(stored: bytes, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The numeric arrays of these names in a MATLAB 5 file.

    Source: MathWorks, "MAT-File Format", level 5.
    """
    if stored[124:128] != b"\x00\x01IM":
        raise ValueError("it has no little-endian header of MATLAB 5")
    arrays = {}
    for kind, content in _mat_elements(memoryview(stored)[128:]):
        if kind == _MAT_COMPRESSED:
            inflate, limit = zlib.decompressobj(), _most_unpacked(len(stored))
            unpacked = inflate.decompress(content, limit)
            if not inflate.eof:
                raise ValueError(f"a variable is cut short, or unpacks to more than {limit} bytes")
            kind, content = next(_mat_elements(memoryview(unpacked)))
        if kind == _MAT_ARRAY:
            name, array = _mat_array(content)
            if name in arrays:
                raise ValueError(f"variable {name} came twice")
            if name in wanted and array is not None:
                arrays[name] = array
    return arrays


def _mat_array(content: memoryview) -> tuple[str, np.ndarray | None]:
    """The name of a variable, and its values where they are plain numbers."""
    (_, flags), (_, sizes), (_, name), *values = _mat_elements(content)
    if flags[0] not in _MAT_NUMERIC_CLASSES:
        return bytes(name).decode(), None
    shape = tuple(np.frombuffer(sizes, "<i4").tolist())
    kind, data = values[0]
    array = np.frombuffer(data, _MAT_DTYPES[kind])
    if min(shape) < 0 or math.prod(shape) != array.size:
        raise ValueError(f"{_times(shape)} values are declared, {array.size} are there")
    return bytes(name).decode(), array.reshape(shape, order="F")


def _mat_elements(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The elements in a stretch of a MATLAB 5 file: type and data of each."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from("<II", content, at)
        start = at + 8
        at = start + size + (0 if kind == _MAT_COMPRESSED else -size % 8)
        if kind > 0xFFFF:
            # Up to four bytes of data share the tag with their type and size.
            kind, size, start, at = kind & 0xFFFF, kind >> 16, start - 4, start
        if start + size > min(at, len(content)):
            raise ValueError("an element is cut short")
        yield kind, content[start : start + size]


@contextmanager
def _damage_named(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a parser raises on bytes that it cannot read into one line with the file's name."""
    try:
        with warnings.catch_warnings():
            # numpy warns of headers that it has to guess at; they are checked here.
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path}: cannot be read ({error.strerror}); name {kind}") from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"{path}: expected {kind}, got one that cannot be read ({reason}); fetch or make it again"
        ) from error


def _most_unpacked(file_bytes: int) -> int:
    """Most bytes that a file of this size may unpack to."""
    return min(file_bytes * MAX_DEFLATE_RATIO, max(MAX_UNPACKED_BYTES, file_bytes))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one value"


def _md5(stored: bytes) -> str:
    return hashlib.md5(stored, usedforsecurity=False).hexdigest()
