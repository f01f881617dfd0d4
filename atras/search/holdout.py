"""The images that a search ranks its candidates on: drawn from the training set class by class, and kept as a data set
of their own."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from atras.data import Dataset, stratified
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.running import DataPlace
from atras.storage import memory_limit, open_regular, write_file

from .halving import TRAIN_SHARE, Record

SELECTION = "selection.npz"


def hold_out(record: Record) -> bytes:
    """The training images of a search that begins, split in two; the record takes their checksum and the data's.

    Returns:
        What is to be written to SELECTION.

    Raises:
        InputError: if the data cannot be loaded, or are too few.
    """
    data = _load(record.protocol, record.execution)
    selection = _selection(data)
    checksum = hashlib.sha256(selection).hexdigest()
    record.content |= {
        "data": data.provenance()["sha256"], "selection_sha256": checksum, "warnings": list(data.cautions),
    }  # fmt: skip
    return selection


def data_cautions(protocol: Protocol, execution: Execution) -> list[str]:
    """Cautions about the data of a search, a line each.

    Raises:
        InputError: if the data cannot be loaded.
    """
    return list(_load(protocol, execution).cautions)


def restore(record: Record, execution: Execution) -> None:
    """Refuse other data than those that a search began with, and write SELECTION if it is not there.

    Args:
        record: as `hold_out` left it.
        execution: where the data are.

    Raises:
        InputError: if the data or the file are others, or cannot be read.
    """
    data, path = _load(record.protocol, execution), record.folder / SELECTION
    if data.provenance()["sha256"] != record.content.get("data"):
        raise InputError(
            f"{record.protocol.dataset}: expected the data that the search began with, found others; restore them"
        )
    # Killed at its very start, a search has none yet.
    selection = None if path.exists() else _selection(data)
    checksum = _checksum(path) if selection is None else hashlib.sha256(selection).hexdigest()
    if checksum != record.content.get("selection_sha256"):
        raise InputError(
            f"{path}: expected the images that the search held out, found others; restore it, or delete it to have it "
            "made anew"
        )
    if selection is not None:
        write_file(path, [selection])


def _checksum(path: Path) -> str:
    try:
        with open_regular(path, memory_limit()) as file:
            return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore it, or delete it") from error


def _selection(data: Dataset) -> bytes:
    """The training images, split in two, as an .npz file: equal data, equal bytes."""
    held_out = _held_out(data.train.labels)
    images, labels = data.train.images.permute(0, 2, 3, 1).numpy(), data.train.labels.numpy()
    arrays: dict[str, Any] = {}
    for part, where in {"train": ~held_out, "test": held_out}.items():
        arrays |= {f"x_{part}": images[where], f"y_{part}": labels[where]}
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def _held_out(labels: torch.Tensor) -> np.ndarray:
    """bool [N], the images to be held out: of each class its share, but never a class's only image.

    Raises:
        InputError: if no class has two images.
    """
    count = len(labels) - math.floor(TRAIN_SHARE * len(labels))
    pool = (torch.bincount(labels)[labels] > 1).nonzero()[:, 0]
    if not len(pool):
        raise InputError(
            f"train_size (={len(labels)}): expected at least 2 images of a class to hold some out; raise it"
        )
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[pool[stratified(labels[pool], min(count, len(pool) // 2), "hold-out")].numpy()] = True
    return chosen


def _load(protocol: Protocol, execution: Execution) -> Dataset:
    return DataPlace.of(protocol, execution).load(torch.device("cpu"))
