"""Decoded images in the user's cache: decoded once, then mapped into memory and never read as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from atras.errors import InputError
from atras.rounding import counted
from atras.storage import (
    JSON_MARK,
    LOCK,
    FolderBusyError,
    Lock,
    check_checksum,
    json_with_checksum,
    read_regular,
    take_folder,
    write_file,
)

from .decoding import MOST_BROKEN, NAMED, DecodedPart, ImageSource, Progress, decode_parts
from .download import cache_dir
from .image_file import DECODER, pillow
from .source_arrays import SourceArrays

RECORD = "images.json"
MAX_RECORD_BYTES = 2**26
SECONDS_BETWEEN_LOOKS = 0.2
"""Time between two looks at what another process decodes."""


def decoded_arrays(source: ImageSource, size: int | None, progress: Progress) -> SourceArrays:
    """The images of a source, from the cache, where they are decoded to if they are not there.

    Args:
        source: of the images.
        size: as `image_file.decode`.
        progress: told while they are decoded.

    Returns:
        Images as uint8 [N, C, H, W], mapped from the cache, not resident; labels as int64 [N].

    Raises:
        InputError: as `decode_parts`, or if the cache cannot be written.
    """
    folder = cache_dir() / "decoded" / _key(source, size)
    record = _record(folder) or _made(folder, source, size, progress)
    described = record["arrays"]
    arrays: dict[str, np.ndarray] = {
        name: np.memmap(folder / name, array["dtype"], "r", shape=tuple(array["shape"]))
        for name, array in described.items()
    }
    return SourceArrays(
        source.name,
        source.origin,
        arrays,
        {name: array["sha256"] for name, array in described.items()},
        classes=len(source.class_names) or None,
        channels="first",
        cautions=(*source.cautions, *_cautions(record["decoding"])),
        class_names=source.class_names,
        decoding=record["decoding"],
    )


def _key(source: ImageSource, size: int | None) -> str:
    """The name of a folder in the cache: another one whenever an image, the size or the decoder is another."""
    made_by = [DECODER, pillow().__version__, size, MOST_BROKEN]
    digest = hashlib.sha256(json.dumps([made_by, source.origin, list(source.class_names)]).encode())
    for line in source.fingerprint:
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()[:32]


def _record(folder: Path) -> dict[str, Any] | None:
    """What is written of decoded images, if all of them are there to the last bit; else None."""
    try:
        content = read_regular(folder / RECORD, MAX_RECORD_BYTES)
        check_checksum(JSON_MARK, content)
        record: dict[str, Any] = json.loads(content)
        for name, array in record["arrays"].items():
            path = folder / name
            if path.stat().st_size != math.prod(array["shape"]) * np.dtype(array["dtype"]).itemsize:
                return None
            if _digest(path) != array["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record


def _made(folder: Path, source: ImageSource, size: int | None, progress: Progress) -> dict[str, Any]:
    """Decode the images, unless another process does: then wait for it."""
    try:
        lock = _taken(folder)
        try:
            record = _record(folder)  # made while this process waited
            return record or _decode(folder, source, size, progress)
        finally:
            lock.release()
            with contextlib.suppress(OSError):
                folder.rmdir()  # where nothing came to be in it
    except OSError as error:
        raise InputError(
            f"{folder}: expected to write decoded images: {error.strerror or error}; make room, or set XDG_CACHE_HOME "
            "to another folder"
        ) from error


def _taken(folder: Path) -> Lock:
    while True:
        try:
            return take_folder(folder)
        except FolderBusyError:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        except InputError as error:
            # Its former holder gave up, and removed the folder between our making it and our locking it.
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
                raise error.__cause__ from None


def _decode(folder: Path, source: ImageSource, size: int | None, progress: Progress) -> dict[str, Any]:
    """Decode into new files, and give them their names when all are whole; what fails leaves nothing."""
    _clear(folder)
    try:
        with warnings.catch_warnings():
            # Pillow warns of damage that it gets over, and of sizes that are checked here.
            warnings.simplefilter("ignore")
            parts = decode_parts(source, folder, size, progress)
        arrays: dict[str, dict[str, Any]] = {}
        for part, found in parts.items():
            _finish(found.path, folder / f"x_{part}")
            arrays[f"x_{part}"] = {"dtype": "uint8", "shape": [len(found.labels), *(found.shape or ())]}
            write_file(folder / f"y_{part}", [np.array(found.labels, np.int64).tobytes()])
            arrays[f"y_{part}"] = {"dtype": "int64", "shape": [len(found.labels)]}
        for name, array in arrays.items():
            array["sha256"] = _digest(folder / name)
        record = {"arrays": arrays, "decoding": _decoding(source, size, parts)}
        write_file(folder / RECORD, [json_with_checksum(record)])
    except BaseException:
        _clear(folder)
        raise
    return record


def _clear(folder: Path) -> None:
    # Files that others have mapped stay theirs: a name goes, and nothing is written over.
    for path in folder.iterdir():
        if path.name != LOCK:
            path.unlink()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finish(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _decoding(source: ImageSource, size: int | None, parts: dict[str, DecodedPart]) -> dict[str, Any]:
    """How images were decoded, as JSON values."""
    found: dict[str, Any] = {"decoder": f"Pillow {pillow().__version__}", "image_size": size}
    found["stored"] = dict(source.counts)
    for kind in ("broken", "animated", "transparent"):
        noted = [getattr(part, kind) for part in parts.values()]
        found[kind] = sum(each.count for each in noted)
        found[f"{kind}_images"] = [name for each in noted for name in each.names][:NAMED]
    return found


def _cautions(decoding: dict[str, Any]) -> tuple[str, ...]:
    texts = {
        "broken": "cannot be decoded and {are} left out",
        "animated": "{have} several frames, of which the first is taken",
        "transparent": "{have} pixels that are not opaque, which are laid on black",
    }
    total, told = sum(decoding["stored"].values()), []
    for kind, text in texts.items():
        if decoding[kind]:
            names = ", ".join(decoding[f"{kind}_images"])
            more = " and others" if decoding[kind] > len(decoding[f"{kind}_images"]) else ""
            what = text.format(
                **({"are": "is", "have": "has"} if decoding[kind] == 1 else {"are": "are", "have": "have"})
            )
            told.append(f"data: {decoding[kind]} of {counted(total, 'image')} {what}: {names}{more}")
    return tuple(told)
