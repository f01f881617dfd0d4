"""The place of a run's images: for other processes, and for a run that goes on after files or folders were moved."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from atras.data import DATASETS, Dataset, Progress, load
from atras.environment import total_memory
from atras.errors import InputError
from atras.experiment import Channels, Execution, HeldOut, Protocol, Size, Subset
from atras.planning import memory_cap, room_for_images
from atras.torch_state import fixed_state

MOST_PLACES = 8
"""Most places of its data that a run remembers, the newest first."""


@dataclass(frozen=True)
class DataPlace:
    """The place of a run's images, for a process that has not loaded them yet; see `data.load`.

    `memory_bytes` is the memory cap that was asked for: it decides whether the images are resident or streamed.
    """

    dataset: str
    train_size: Size
    test_size: Size
    subset: Subset
    channels: Channels
    image_size: int | None
    data_dir: str | None
    download: bool
    memory_bytes: int | None = field(default=None, compare=False)
    held_out: HeldOut = "none"

    @classmethod
    def of(cls, protocol: Protocol, execution: Execution) -> DataPlace:
        """The place of an experiment's images."""
        chosen = (protocol.train_size, protocol.test_size, protocol.subset, protocol.channels)
        places = (protocol.image_size, execution.data_dir, execution.download, execution.memory_bytes)
        return cls(protocol.dataset, *chosen, *places, held_out=protocol.held_out)

    def load(self, device: torch.device, progress: Progress | None = None) -> Dataset:
        """The images, on a device, or in their file where they would take too much of it.

        Args:
            device: where they will be.
            progress: told how many image files of how many are decoded.

        Raises:
            InputError: as `data.load`.
        """
        cap = memory_cap(self.memory_bytes, total_memory(device).amount)
        with fixed_state(device):
            return load(
                self.dataset,
                train_size=self.train_size,
                test_size=self.test_size,
                subset=self.subset,
                channels=self.channels,
                data_dir=self.data_dir,
                download=self.download,
                image_size=self.image_size,
                device=device,
                room=room_for_images(cap),
                progress=progress,
                held_out=self.held_out,
            )

    @property
    def named(self) -> bool:
        """Whether the data set is a named one, which is looked for in folders."""
        return self.dataset in DATASETS

    @property
    def path(self) -> str | None:
        """The file or folder that the user named, if any."""
        return self.data_dir if self.named else self.dataset

    def at(self, path: str | None) -> DataPlace:
        """The same images elsewhere: at `path`, or, named ones, in it."""
        return dataclasses.replace(self, data_dir=path) if self.named else dataclasses.replace(self, dataset=path or "")

    @property
    def absolute(self) -> DataPlace:
        """The same place for a process that stands elsewhere."""
        return self if self.path is None else self.at(os.path.abspath(os.path.expanduser(self.path)))  # noqa: PTH100, PTH111

    def remembered(self, folder: Path, before: object = ()) -> list[list[str]]:
        """The place as `run.json` has it: its absolute path, and its path from the run's folder.

        Args:
            folder: the run's.
            before: what was remembered so far.
        """
        former = list(_pairs(before))
        if self.path is None:
            return former
        path = (self.absolute.path or "").replace("\0", "")  # which is no path's, and no system call's either
        target = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))  # noqa: PTH118, PTH119, PTH120
        pair = [path, os.path.relpath(target, os.path.realpath(folder))]
        return [pair, *(other for other in former if other != pair)][:MOST_PLACES]


class RecordedData:
    """The images that a run began with, wherever they lie now: what its checksums fit, and nothing else.

    Args:
        given: the place that was asked for, or the recorded one.
        recorded: the place as the protocol and the execution of the run have it.
        folder: the run's, from which remembered paths are followed.
        remembered: by `DataPlace.remembered`.
        data: what the run recorded of its data: `sha256`, and, if known, `name` and `source`; None where the run
            had not loaded them yet.
    """

    def __init__(
        self,
        given: DataPlace,
        recorded: DataPlace,
        folder: Path,
        remembered: object,
        data: Mapping[str, Any] | None,
    ) -> None:
        self.place, self._data = given, data
        self._asked = given.dataset != recorded.dataset
        self._places = [given]
        for place in [] if self._asked else _elsewhere(given, recorded, folder, remembered):
            if place not in self._places and (place.path is None or os.path.lexists(os.path.expanduser(place.path))):  # noqa: PTH111
                self._places.append(place)

    def load(self, device: torch.device, progress: Progress | None = None) -> Dataset:
        """The images, on a device; `place` is then where they were found.

        Args:
            device: where they will be.
            progress: told how many image files of how many are decoded.

        Raises:
            InputError: if they are nowhere, or others are there.
        """
        reasons, others = [], []
        for place in self._places:
            try:
                data = dataclasses.replace(place, download=False).load(device, progress)
            except InputError as error:
                reasons.append(str(error))
                continue
            if self._fits(data):
                return self._found(place, data)
            others.append(data)
        if not others and self.place.named and self.place.download and not self._asked:
            place = self._places[-1]
            data = place.load(device, progress)
            if self._fits(data):
                return self._found(place, data)
            others.append(data)
        if others:
            raise self._differ(others[0])
        looked = [str(place.path) for place in self._places[1:] if place.path is not None]
        more = f"; looked also for {' and '.join(looked)}" if looked else ""
        raise InputError(f"{reasons[0]}{more}; name where it is by --dataset or --data-dir")

    def _found(self, place: DataPlace, data: Dataset) -> Dataset:
        self.place = place
        return data if self._data is None else dataclasses.replace(data, name=self._data.get("name", data.name))

    def _fits(self, data: Dataset) -> bool:
        return self._data is None or self._data.get("sha256") == data.provenance()["sha256"]

    def _differ(self, data: Dataset) -> InputError:
        recorded: Any = (self._data or {}).get("sha256")
        before = recorded if isinstance(recorded, dict) else {}
        names = [name for name in {**before, **data.sha256} if before.get(name) != data.sha256.get(name)]
        shown = ", ".join(
            f"{name} has {str(data.sha256.get(name))[:12]}, had {str(before.get(name))[:12]}" for name in names[:2]
        )
        source = (self._data or {}).get("source", "the recorded place")
        return InputError(
            f"{self.place.dataset}: expected the data that the run began with, those of {source}, found others in "
            f"{data.source} (SHA-256 of {shown}); restore them, or name where they are by --dataset or --data-dir"
        )


def _elsewhere(given: DataPlace, recorded: DataPlace, folder: Path, remembered: object) -> Iterator[DataPlace]:
    """Where else the images may be: in a folder that was given, and where they were, seen from the run or from here."""
    if not given.named and given.data_dir not in (None, recorded.data_dir):
        for below in (given.dataset, os.path.basename(os.path.normpath(given.dataset)), ""):  # noqa: PTH119
            yield given.at(os.path.join(str(given.data_dir), below).rstrip("/"))  # noqa: PTH118
    for absolute, from_run in _pairs(remembered):
        yield given.at(absolute)
        yield given.at(os.path.normpath(os.path.join(os.path.realpath(folder), from_run)))  # noqa: PTH118
    if given.named:
        yield given.at(os.environ.get("ATRAS_DATA") or None)
        yield given.at(None)


def _pairs(remembered: object) -> Iterator[list[str]]:
    """What `DataPlace.remembered` made, as far as it is that."""
    for pair in remembered if isinstance(remembered, list) else ():
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(path, str) for path in pair):
            yield pair
