"""Groups that finished since a run's frames were last written as a whole: a file each, with rows and record together.

To write a group costs what the group is, not what the run is. Each file is a ZIP of Parquet frames and `record.json`,
whole or not there. What is in the frames already counts once, so the files may stay where a process was killed between
writing the frames and deleting them.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import polars as pl

from atras.errors import InputError
from atras.storage import JSON_MARK, check_checksum, json_with_checksum, read_regular, remove_file, write_file

from .frames import MAX_PARQUET_BYTES, foreign, frame_in, parquet
from .schemas import SCHEMAS

FOLDER = "finished"
"""Below the run's folder, while it is computed."""

RECORD = "record.json"

KEYS = ("hidden_layers", "seed", "variant")
"""Columns that tell members apart, where a frame has them; `timings` are told apart by their group."""


class Finished(NamedTuple):
    """A finished group.

    Args:
        path: its file.
        record: its number in the plan, cautions about it, and the run's timings when it was done.
        frames: its rows as Parquet, by frame, those that it has: a large run's are read a frame at a time.
    """

    path: Path
    record: dict[str, Any]
    frames: dict[str, bytes]


def write(folder: Path, group: int, record: Mapping[str, Any], frames: Mapping[str, pl.DataFrame]) -> None:
    """Write a finished group.

    Args:
        folder: the run's.
        group: its number in the plan.
        record: JSON values.
        frames: its rows.

    Raises:
        InputError: if it cannot be written; nothing is there then.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored as they are: Parquet is compressed
        for name, frame in frames.items():
            if len(frame):
                archive.writestr(zipfile.ZipInfo(f"{name}.parquet"), parquet(frame))
        archive.writestr(zipfile.ZipInfo(RECORD), json_with_checksum({"group": group, **record}))
    write_file(_path(folder, group), [buffer.getbuffer()])


def read_finished(folder: Path) -> list[Finished]:
    """The finished groups of a run that are not surely in its frames, in the order of their numbers.

    Raises:
        InputError: if a file is damaged.
    """
    found = []
    for path in sorted((folder / FOLDER).glob("*.zip")):
        with contextlib.suppress(FileNotFoundError):  # its rows have just become part of the frames
            found.append(_read(path))
    return found


def remove_finished(folder: Path) -> None:
    """Delete the files of groups whose rows are in the frames.

    Raises:
        InputError: if one cannot be deleted.
    """
    for path in (folder / FOLDER).glob("*.zip"):
        remove_file(path)
    with contextlib.suppress(OSError):
        (folder / FOLDER).rmdir()


def joined(
    name: str,
    frame: pl.DataFrame,
    groups: Iterable[Finished],
    axes: Mapping[str, type[pl.DataType]] = MappingProxyType({}),
) -> pl.DataFrame:
    """A frame with the rows of finished groups that it does not have yet.

    Args:
        name: in SCHEMAS.
        frame: as it was last written.
        groups: all of them.
        axes: types of the columns of the run's axes.
    """
    later = [frame_in(group.frames[name], group.path, name, axes) for group in groups if name in group.frames]
    if not later:
        return frame
    keys = [key for key in KEYS if key in frame.columns] if name != "timings" else ["group"]
    there = set(frame.select(keys).unique().rows())
    # Of a group all rows are there or none.
    return pl.concat([frame, *(part for part in later if len(part) and part.select(keys).row(0) not in there)])


def told(run: Mapping[str, Any], groups: Sequence[Finished]) -> dict[str, Any]:
    """The content of run.json with what finished groups add to it."""
    if not groups:
        return dict(run)
    warnings = [text for group in groups for text in group.record["warnings"]]
    latest = max((group.record["timings"] for group in groups), key=lambda each: each.get("run_seconds") or 0.0)
    before = run.get("timings") or {}
    return dict(run) | {
        "finished_groups": sorted({*run.get("finished_groups", ()), *(group.record["group"] for group in groups)}),
        "warnings": list(dict.fromkeys([*run.get("warnings", ()), *warnings])),
        "timings": max((before, latest), key=lambda each: each.get("run_seconds") or 0.0),
    }


def _path(folder: Path, group: int) -> Path:
    return folder / FOLDER / f"{group:07d}.zip"


def _read(path: Path) -> Finished:
    try:
        content = read_regular(path, MAX_PARQUET_BYTES)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise ValueError("it is compressed")
            parts = {name: archive.read(info) for name, info in entries.items()}
        record = _record(parts.pop(RECORD))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile) as error:
        raise foreign(path, "a finished group", error) from error
    frames = {name.removesuffix(".parquet"): part for name, part in parts.items()}
    if strange := frames.keys() - SCHEMAS.keys():
        raise InputError(f"{path}: expected the frames of a run, found {strange.pop()}; it is damaged")
    return Finished(path, record, frames)


def _record(content: bytes) -> dict[str, Any]:
    check_checksum(JSON_MARK, content)
    record = json.loads(content)
    fits = isinstance(record, dict) and type(record.get("group")) is int
    if not fits or not isinstance(record.get("warnings"), list) or not isinstance(record.get("timings"), dict):
        raise ValueError("its record is of another form")
    return record
