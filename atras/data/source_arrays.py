"""A data set as it was read, before it is checked, cut and moved to a device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atras.experiment import Channels

from .file_contents import Contents

Status = Literal["official", "unverified", "bundled"]

PIECE = 2**22
"""Bytes of an array that are read or copied at a time."""


@dataclass(frozen=True)
class SourceArrays:
    """The arrays of a data set.

    Args:
        name: for the result.
        origin: the path or package that was read.
        arrays: x_train, y_train, x_test, y_test; images as [N, H, W], or with channels where `channels` says; labels as
            `class_labels` takes them.
        sha256: of each whole file, uncompressed, or of each whole array's bytes.
        status: `official` if every file has the official checksum, `bundled` if it came with a package.
        classes: number of classes; None to count them.
        channels: where images of four axes have their channels; `auto` if the file does not say.
        cautions: what its user should know of how it was read, a line each.
        class_names: in the order of the labels; empty where the data have none.
        decoding: how image files were decoded, as JSON values; None where there were none.
    """

    name: str
    origin: str
    arrays: dict[str, np.ndarray]
    sha256: dict[str, str]
    status: Status = "unverified"
    classes: int | None = None
    channels: Channels = "last"
    cautions: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    decoding: Mapping[str, Any] | None = None


def checksums_of(contents: Mapping[str, Contents]) -> dict[str, set[str]]:
    """The checksums of each file, of which any may be the official one."""
    return {file: {content.sha256} | ({content.md5} if content.md5 else set()) for file, content in contents.items()}


def array_checksums(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """SHA-256 of each array's bytes, in the order of its last axis."""
    return {name: _checksum(array) for name, array in arrays.items()}


def _checksum(array: np.ndarray) -> str:
    digest = hashlib.sha256()
    for rows in pieces(array):
        digest.update(np.ascontiguousarray(array[rows]).data)
    return digest.hexdigest()


def pieces(array: np.ndarray) -> Iterator[slice]:
    """The rows of an array, so many at a time that they are about PIECE bytes."""
    step = max(1, PIECE // max(1, array[:1].nbytes))
    yield from (slice(start, start + step) for start in range(0, len(array), step))


def folder_of(files: Mapping[str, Path]) -> str:
    """The folder that the files are in."""
    return str(next(iter(files.values())).parent)
