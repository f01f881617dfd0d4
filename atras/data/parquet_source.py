"""The images and labels in a folder of Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from atras.errors import InputError, printable, shown

from .class_labels import MAX_CLASSES
from .decoding import ImageSource, Stored
from .parquet_names import LAYOUT, files_of
from .parts_of_folders import tested_on, unused_validation

IMAGES = ("image", "img")
LABELS = ("label", "labels", "fine_label")
"""Columns, of which the first that is there is taken."""

SLICE_BYTES = 2**25
"""Bytes of a file that are read at a time."""


class Columns(NamedTuple):
    """The columns of a file that are read: images as a struct with `bytes` or as binary, and labels."""

    image: str
    label: str
    packed: bool

    def content(self) -> pl.Expr:
        """The bytes of the images."""
        column = pl.col(self.image)
        return column.struct.field("bytes") if self.packed else column


class ParquetSource(ImageSource):
    """The images of a folder of Parquet files, in the order of the files' names.

    Args:
        path: the folder.

    Raises:
        InputError: if a part or a column is missing, or a file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        files = files_of(path)
        tested = tested_on(set(files))
        if "train" not in files or tested is None:
            there = ", ".join(file.name for found in files.values() for file in found[:2])
            raise InputError(f"{path}: expected {LAYOUT}, got {there}; add the part that is missing")
        self.files = {"train": files["train"], "test": files[tested]}
        self.columns = {file: _columns(file) for found in self.files.values() for file in found}
        self.labels = {file: _labels(file, columns) for file, columns in self.columns.items()}
        first = self.files["train"][0]
        super().__init__(
            name=printable(path.resolve().name),
            origin=str(path),
            class_names=_class_names(first, self.columns[first].label),
            counts={part: sum(len(self.labels[file]) for file in found) for part, found in self.files.items()},
            fingerprint=[str(path.resolve()), *self._states()],
            cautions=unused_validation(set(files), path.name),
        )
        for part, count in self.counts.items():
            if not count:
                raise InputError(f"{self.files[part][0]}: expected at least one image, got none; add some")

    def images(self, part: str) -> Iterator[Stored]:
        for file in self.files[part]:
            labels, name = self.labels[file], printable(file.name)
            step = max(1, len(labels) * SLICE_BYTES // max(1, file.stat().st_size))
            for start in range(0, len(labels), step):
                with _readable(file):
                    frame = (
                        pl.scan_parquet(file, glob=False)
                        .slice(start, step)
                        .select(self.columns[file].content())
                        .collect()
                    )
                for row, content in enumerate(frame.to_series(), start):
                    yield Stored(f"{name}, row {row}", int(labels[row]), content)

    def _states(self) -> Iterator[tuple[object, ...]]:
        for part, found in self.files.items():
            for file in found:
                status = file.stat()
                yield (part, file.name, *self.columns[file], status.st_size, status.st_mtime_ns)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn whatever polars raises into one line with the file's name."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise InputError(f"{file}: expected a name in UTF-8, by which polars opens files; rename it") from None
    try:
        yield
    except (Exception, pl.exceptions.PanicException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: expected a Parquet file, cannot be read ({reason}); fetch it again") from error


def _columns(file: Path) -> Columns:
    with _readable(file):
        schema = pl.scan_parquet(file, glob=False).collect_schema()
    image, label = (next((name for name in names if name in schema), None) for names in (IMAGES, LABELS))
    there = ", ".join(f"{name} ({dtype})" for name, dtype in list(schema.items())[:8]) or "nothing"
    if image is None or label is None:
        expected = f"a column {' or '.join(IMAGES)} and a column {' or '.join(LABELS)}"
        raise InputError(f"{file}: expected {expected}, got {there[:300]}; name them so")
    dtype = schema[image]
    packed = isinstance(dtype, pl.Struct) and any(
        each.name == "bytes" and each.dtype == pl.Binary for each in dtype.fields
    )
    if not packed and dtype != pl.Binary:
        raise InputError(
            f"{file}: expected column {image} to have encoded images, as a struct with bytes or as binary, got "
            f"{str(dtype)[:200]}; store them so"
        )
    if not schema[label].is_integer():
        raise InputError(
            f"{file}: expected column {label} to have a whole number an image, got {schema[label]}; number the classes"
        )
    return Columns(image, label, packed)


def _labels(file: Path, columns: Columns) -> np.ndarray:
    with _readable(file):
        labels = pl.scan_parquet(file, glob=False).select(columns.label).collect().to_series()
    if labels.null_count():
        raise InputError(f"{file}: expected a label for each image, {labels.null_count()} have none; remove them")
    return labels.cast(pl.Int64, strict=False).fill_null(-1).to_numpy()


def _class_names(file: Path, label: str) -> tuple[str, ...]:
    """The names of the classes that Hugging Face's `ClassLabel` keeps beside a column; none where it is another."""
    try:
        with _readable(file):
            features = json.loads(pl.read_parquet_metadata(file)["huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (InputError, KeyError, TypeError, ValueError, RecursionError):
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    if len(names) > MAX_CLASSES:
        raise InputError(f"{file}: expected at most {MAX_CLASSES} classes, got {shown(len(names))}")
    return tuple(printable(name) for name in names)
