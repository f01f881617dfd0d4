"""The content of one file, and what the readers of all file formats share.

Files come from anywhere. Nothing is allocated from a header before the header was held against the size of its file,
and nothing is unpickled whose checksum is not the official one.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atras.errors import InputError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""The arrays of a data set."""

MAX_MAPPED_BYTES = 2**44
"""Most bytes of a file that is mapped, not read: it may be larger than the memory."""

MAX_UNPACKED_BYTES = 2 * 2**30
"""Most bytes a compressed file may unpack to, unless the file itself is larger."""

MAX_DEFLATE_RATIO = 1032
"""Most bytes that deflate can make of one byte."""


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


@contextmanager
def damage_named(path: Path, kind: str) -> Iterator[None]:
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


def most_unpacked(file_bytes: int) -> int:
    """Most bytes that a deflated file of this size may unpack to."""
    return min(file_bytes * MAX_DEFLATE_RATIO, unpacked_limit(file_bytes))


def unpacked_limit(file_bytes: int) -> int:
    """Most bytes that all of a file of this size may be unpacked."""
    return max(MAX_UNPACKED_BYTES, file_bytes)


def times(shape: tuple[int, ...]) -> str:
    """Sizes of axes as text."""
    return " x ".join(map(str, shape)) or "one value"


def md5_of(stored: bytes) -> str:
    """MD5 as hexadecimal digits."""
    return hashlib.md5(stored, usedforsecurity=False).hexdigest()
