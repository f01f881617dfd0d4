"""The reader of SVHN's MATLAB files."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from atras.errors import InputError
from atras.storage import memory_limit, read_regular

from .file_contents import Contents, damage_named, md5_of, most_unpacked, times


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
    with damage_named(path, kind):
        stored = read_regular(path, memory_limit())
        arrays = _mat_arrays(stored, ("X", "y"))
        shown = ", ".join(f"{name} {array.dtype.name} {times(array.shape)}" for name, array in arrays.items())
        images, labels = arrays.get("X", np.empty(0)), arrays.get("y", np.empty(0)).reshape(-1)
        if len(arrays) != 2 or images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != 3:
            raise InputError(f"{path}: expected {kind}, got {shown or 'neither'}; fetch it again")
        if labels.dtype.kind == "f" and (np.isfinite(labels) & (np.floor(labels) == labels)).all():
            labels = labels.astype(np.int64)
    sha256 = hashlib.sha256(stored).hexdigest()
    return Contents(images.transpose(3, 0, 1, 2), sha256, md5_of(stored)), np.where(labels == 10, 0, labels)


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
            inflate, limit = zlib.decompressobj(), most_unpacked(len(stored))
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
        raise ValueError(f"{times(shape)} values are declared, {array.size} are there")
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
