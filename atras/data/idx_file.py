"""The reader of IDX files."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from atras.errors import InputError
from atras.storage import memory_limit, open_regular, read_regular

from .file_contents import MAX_MAPPED_BYTES, Contents, damage_named, md5_of, most_unpacked, times

IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
"""MNIST's file names by the array that they hold. Each file may also be there with `.gz` behind its name."""


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
    with damage_named(path, "an IDX file"):
        with open_regular(path, MAX_MAPPED_BYTES) as file:
            if file.read(2) != b"\x1f\x8b":
                return _mapped(path, file, axes)
        stored = read_regular(path, memory_limit())
        stream = gzip.GzipFile(fileobj=io.BytesIO(stored))
        header = stream.read(4 + 4 * axes)
        shape = _idx_shape(path, header, axes)
        declared = math.prod(shape)
        possible = most_unpacked(len(stored))
        if declared > possible:
            raise _another_length(path, shape, f"at most {possible}")
        # One byte more than declared shows a longer file, and takes gzip to its checksum.
        body = stream.read(declared + 1)
        if len(body) != declared:
            raise _another_length(path, shape, "more" if len(body) > declared else str(len(body)))
    sha256 = hashlib.sha256(header)
    sha256.update(body)
    return Contents(np.frombuffer(body, np.uint8).reshape(shape), sha256.hexdigest(), md5_of(stored))


def _mapped(path: Path, file: BinaryIO, axes: int) -> Contents:
    """A plain file, where it lies."""
    file.seek(0)
    header = file.read(4 + 4 * axes)
    shape = _idx_shape(path, header, axes)
    held, declared = os.fstat(file.fileno()).st_size - len(header), math.prod(shape)
    if held != declared:
        held_text = f"at most {held}" if declared > held else "more"
        raise _another_length(path, shape, held_text)
    file.seek(0)
    sha256 = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    body = np.memmap(file, np.uint8, "r", len(header), shape) if declared else np.empty(shape, np.uint8)
    return Contents(np.asarray(body), sha256, None)


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
        f"{path}: its header declares {times(shape)} = {math.prod(shape)} bytes, the file holds {held}; "
        "it is cut short or damaged, so fetch it again"
    )
