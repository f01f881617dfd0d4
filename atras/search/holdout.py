"""The images that a search ranks its candidates on: drawn from the training set class by class, and kept as a data set
of their own."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import mmap
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from atras.data import Dataset, Progress, Split, pieces, stratified
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.running import DataPlace, RecordedData
from atras.storage import open_regular, scratch_array, scratch_folder, write_file

from .halving import TRAIN_SHARE, Record

SELECTION = "selection.npz"


class HeldOut(DataPlace):
    """The place of SELECTION. About its images nothing is to be said: what concerns the data, the search said of them
    as a whole, and the images that a round tests on are none of the test set."""

    def load(self, device: torch.device, progress: Progress | None = None) -> Dataset:
        return dataclasses.replace(super().load(device, progress), cautions=())


def hold_out(record: Record, place: DataPlace, progress: Progress) -> memoryview:
    """The training images of a search that begins, split in two; the record takes their checksum and the data's.

    Args:
        record: of the search.
        place: where the data are.
        progress: told how many image files of how many are decoded.

    Returns:
        What is to be written to SELECTION.

    Raises:
        InputError: if the data cannot be loaded, or are too few.
    """
    data = dataclasses.replace(place, held_out="none").load(torch.device("cpu"), progress)
    selection = _selection(data)
    checksum = hashlib.sha256(selection).hexdigest()
    record.content |= {
        "data": data.provenance()["sha256"], "selection_sha256": checksum, "warnings": list(data.cautions),
    }  # fmt: skip
    return selection


def round_data(folder: Path) -> dict[str, Any]:
    """The fields of a protocol whose data are the images that a search in a folder holds out."""
    # A path that is the same wherever a resuming process stands.
    holdout = str(folder.resolve() / SELECTION)
    whole = {"train_size": "all", "test_size": "all", "subset": "first", "channels": "last", "image_size": None}
    return {"dataset": holdout, **whole}


def split_training(data: Dataset) -> memoryview:
    """The training images in two, as the content of SELECTION: equal data, equal bytes.

    Raises:
        InputError: if no class has two images.
    """
    return _selection(data)


def data_cautions(protocol: Protocol, execution: Execution, progress: Progress | None = None) -> list[str]:
    """Cautions about the data of a search, a line each.

    Raises:
        InputError: if the data cannot be loaded.
    """
    return list(DataPlace.of(protocol, execution).load(torch.device("cpu"), progress).cautions)


def restore(record: Record, place: DataPlace, progress: Progress) -> DataPlace:
    """Find the data that a search began with, and write SELECTION if it is not there.

    Args:
        record: as `hold_out` left it.
        place: where the data are said to be.
        progress: as `hold_out`.

    Returns:
        Where they are.

    Raises:
        InputError: if the data or the file are others, or cannot be read.
    """
    recorded, path = DataPlace.of(record.protocol, record.execution), record.folder / SELECTION
    known = {"sha256": record.content.get("data")} if len(record.parts) > 1 else None
    found = RecordedData(place, recorded, record.folder, record.content.get("data_places"), known)
    data = found.load(torch.device("cpu"), progress)
    if known is None:
        return found.place
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
    return found.place


def _checksum(path: Path) -> str:
    try:
        with open_regular(path, path.stat().st_size) as file:
            return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore it, or delete it") from error


def _selection(data: Dataset) -> memoryview:
    """The training images, split in two, as an .npz file: equal data, equal bytes.

    It is made in a file without a name: images that are streamed are never all in memory.
    """
    held_out = _held_out(data.train.labels)
    labels = data.train.labels.numpy()
    arrays: dict[str, Any] = {}
    for part, where in {"train": ~held_out, "test": held_out}.items():
        arrays |= {f"x_{part}": _channels_last(data.train, np.flatnonzero(where)), f"y_{part}": labels[where]}
    with tempfile.TemporaryFile(dir=scratch_folder(), prefix="atras-") as file:
        np.savez(file, **arrays)
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _channels_last(part: Split, numbers: np.ndarray) -> np.ndarray:
    """Some images [N, H, W, C] of a part, in a file without a name."""
    _, channels, height, width = part.images.shape
    dtype = np.uint8 if part.images.dtype == torch.uint8 else np.float32
    kept = scratch_array((len(numbers), height, width, channels), dtype)
    for rows in pieces(kept):
        kept[rows] = part.images[torch.from_numpy(numbers[rows])].permute(0, 2, 3, 1).numpy()
    return kept


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
