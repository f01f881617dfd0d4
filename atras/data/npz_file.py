"""`.npz` files with images and labels of a training and a test part."""

from __future__ import annotations

import math
import re
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, BinaryIO, Literal, NamedTuple

import numpy as np

from atras.errors import InputError
from atras.storage import is_file, open_regular, scratch_array

from .file_contents import ARRAYS, MAX_MAPPED_BYTES, damage_named, times, unpacked_limit
from .file_formats import FileFormat, Reading
from .source_arrays import PIECE, SourceArrays, array_checksums

MOST_IN_MEMORY = 2**28
"""Most bytes of a compressed array that are unpacked into memory; more are unpacked into a file without a name."""


class NpzFile(FileFormat):
    """an .npz file"""

    name = "npz"
    suffixes = (".npz",)

    def fits(self, path: Path) -> bool:
        return path.suffix == ".npz" and is_file(path)

    def read(self, path: Path, reading: Reading) -> SourceArrays:  # noqa: ARG002 (nothing is decoded)
        return read_npz(path)


_PARTS = {"train": "train|training", "test": "test|testing", "val": "val|valid|validation|dev"}
_ROLES = {"x": "x|images?|imgs?|data|features?|pixels", "y": "y|labels?|targets?|classes"}


def array_of(name: str) -> str | None:
    """The array that a name in a file stands for: `x_train` for `train_images`, `y_val` for `val_labels`.

    Args:
        name: in any case; part and role in either order, with a separator or without.

    Returns:
        None for a name that stands for none.
    """
    plain = name.lower()
    for part, parts in _PARTS.items():
        for role, roles in _ROLES.items():
            if re.fullmatch(f"({parts})[-_. ]?({roles})|({roles})[-_. ]?({parts})", plain):
                return f"{role}_{part}"
    return None


def read_npz(path: Path) -> SourceArrays:
    """Read images and labels of a training and a test part from an `.npz` file.

    Every header is checked against its size in the archive, and their sum against a limit, before any data is read.

    Args:
        path: the file, as `numpy.savez` or `numpy.savez_compressed` writes it, with x_train, y_train, x_test and
            y_test, or other usual names, such as MedMNIST's train_images, train_labels, test_images and test_labels.

    Returns:
        The arrays, of any shape and numeric dtype.

    Raises:
        InputError: if the file cannot be read, lacks one of the arrays, holds objects or unpacks to too much.
    """
    with (
        damage_named(path, "an .npz file"),
        open_regular(path, MAX_MAPPED_BYTES) as file,
        zipfile.ZipFile(file) as archive,
    ):
        entries = [Entry.of(info) for info in archive.infolist()]
        chosen = _chosen(path, entries)
        total, limit = sum(entry.info.file_size for entry in chosen.values()), unpacked_limit(path.stat().st_size)
        if total > limit:
            raise InputError(
                f"{path}: its arrays unpack to {total} bytes, of which {limit} are allowed; "
                "store fewer images, or store them uncompressed with numpy.savez"
            )
        arrays = {
            array: _read_npy(f"{entry.name} in {path}", file, archive, entry.info) for array, entry in chosen.items()
        }
    return SourceArrays(
        path.stem, str(path), arrays, array_checksums(arrays), channels="auto", cautions=_cautions(path, entries)
    )


class Entry(NamedTuple):
    """An array in an archive: what it stands for, its name, and where it lies."""

    array: str | None
    name: str
    info: zipfile.ZipInfo

    @classmethod
    def of(cls, info: zipfile.ZipInfo) -> Entry:
        """The entry that an archive lists."""
        name = info.filename.removesuffix(".npy")
        return cls(array_of(name), name, info)


def _validation(entries: Sequence[Entry]) -> str:
    return " and ".join(entry.name for entry in entries if entry.array in ("x_val", "y_val"))


def _cautions(path: Path, entries: Sequence[Entry]) -> tuple[str, ...]:
    unused = _validation(entries)
    advice = "to test on them, save them as x_test and y_test"
    return (f"data: not used are {unused} of {path.name}; {advice}",) if unused else ()


def _chosen(path: Path, entries: Sequence[Entry]) -> dict[str, Entry]:
    """The entry of each array: that of its own name, or the only one whose name stands for it."""
    chosen: dict[str, Entry] = {}
    for array in ARRAYS:
        exact = [entry for entry in entries if entry.name == array]
        found = exact or [entry for entry in entries if entry.array == array]
        if len(found) > 1:
            names = "" if exact else f", as {' and '.join(entry.name for entry in found[:4])}"
            raise InputError(f"{path}: array {array} came twice{names}; make the file anew with numpy.savez")
        chosen |= {array: found[0]} if found else {}
    missing = [array for array in ARRAYS if array not in chosen]
    if missing:
        raise InputError(f"{path}: expected arrays {', '.join(ARRAYS)}, {_advice(entries, missing)}")
    return chosen


def _advice(entries: Sequence[Entry], missing: Sequence[str]) -> str:
    """What came instead of some arrays, and what to do, as the end of a message."""
    there = ", ".join(repr(entry.name) for entry in entries[:8]) or "nothing"
    advice = f"got {there}; add {', '.join(missing)}"
    if set(missing) == {"x_test", "y_test"} and (validation := _validation(entries)):
        return f"{advice}, such as {validation} under these names"
    undivided = [entry.name for entry in entries if re.fullmatch("|".join(_ROLES.values()), entry.name.lower())]
    if undivided:
        advice += f": split {' and '.join(undivided[:4])} into a training and a test part"
    return advice


def _read_npy(where: str, file: BinaryIO, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
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
                f"{where}: its header declares {times(shape)} of {dtype.name} = {declared} bytes, "
                f"the archive holds {held}; the file is damaged, so make it anew"
            )
        order: Literal["F", "C"] = "F" if fortran_order else "C"
        if entry.compress_type == zipfile.ZIP_STORED:
            return _mapped(file, archive, entry, member.tell(), dtype, shape, order)
        if held > MOST_IN_MEMORY:
            return _unpacked_to_file(member, held, dtype).reshape(shape, order=order)
        # Reading to the declared end lets zipfile compare the checksum; without a count it would unpack a GiB at once.
        return np.frombuffer(member.read(held), dtype).reshape(shape, order=order)


def _mapped(
    file: BinaryIO,
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    header: int,
    dtype: np.dtype,
    shape: tuple[int, ...],
    order: Literal["F", "C"],
) -> np.ndarray:
    """An array that is not compressed, where it lies in the archive: nothing is read but for its checksum."""
    with archive.open(entry) as member:
        while member.read(PIECE):  # to the end, where zipfile compares the checksum
            pass
    file.seek(entry.header_offset)
    name, extra = struct.unpack_from("<HH", file.read(30), 26)
    start = entry.header_offset + 30 + name + extra + header
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(file, dtype, "r", start, shape, order))


def _unpacked_to_file(member: IO[bytes], size: int, dtype: np.dtype) -> np.ndarray:
    """The numbers of a compressed array that is not to be in memory, in a file without a name."""
    values = scratch_array((size,), np.uint8)
    for start in range(0, size, PIECE):
        values[start : start + PIECE] = np.frombuffer(member.read(min(PIECE, size - start)), np.uint8)
    member.read(1)  # to the end, where zipfile compares the checksum
    return values.view(dtype)
