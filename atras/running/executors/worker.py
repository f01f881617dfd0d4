"""A task in another process than its run's: what it is sent, what it tells meanwhile, and what it sends back."""

from __future__ import annotations

import dataclasses
import os
import platform
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from atras.data import Dataset, Split
from atras.environment import versions
from atras.errors import InputError, Interrupted
from atras.evaluation import Rows, Source, Sources
from atras.kernels import backends
from atras.networks import Member, Parameters
from atras.running.progress import Reporter
from atras.running.task import GroupTask, Surroundings
from atras.storage import LOCK
from atras.training import FOLDER, Networks, checkpoint

from .local import compute

Event = tuple[str, tuple[Any, ...]]
"""The name of a method of a reporter, and its arguments."""

SECONDS_BETWEEN_EXCHANGES = 0.2
"""Least time between two things that a worker sends to its run."""

EPOCHS = "epochs"
"""The event of an epoch, which the callbacks of a run are told."""

REPLACED = ("progress", "attacking")
"""Events of which the newest alone is sent."""


class Kind(NamedTuple):
    """What must be the same wherever groups of a run are computed, for their numbers to be.

    Args:
        versions: of what computes.
        instructions: the instruction set of the kernels.
    """

    versions: Mapping[str, str | None]
    instructions: str

    @classmethod
    def here(cls) -> Kind:
        """That of this process."""
        known, sets = versions(), backends.instruction_sets()
        named = {name: known[name] for name in ("atras", "torch", "triton", "numpy")}
        asked = os.environ.get("ATRAS_BACKEND", "") or "auto"
        return cls(named | {"kernels": "compiled" if sets else "not compiled", "backend": asked}, (sets or ["none"])[0])

    def differs(self, other: Kind) -> str:
        """In which versions another one differs; empty where it does not."""
        odd = [name for name, value in self.versions.items() if other.versions.get(name) != value]
        return ", ".join(f"{name} {other.versions.get(name)} instead of {self.versions[name]}" for name in odd)


@dataclass(frozen=True)
class Job:
    """What all tasks of a run share, for a worker that has nothing.

    Args:
        key: names it among others.
        kind: of the run's own process.
        threads: that compute.
        data: without its images.
        arrays: images and labels of both parts; None where a worker reads them from their place.
        source: whose adversarial images all train on, on the CPU.
        lock: content of the lock of the run's folder, by which a worker sees whether it has the same folder.
        epochs: whether the run wants to know of each epoch.
    """

    key: str
    kind: Kind
    threads: int
    data: Dataset
    arrays: tuple[np.ndarray, ...] | None
    source: Source | Sources | None
    lock: str
    epochs: bool = False

    @classmethod
    def of(cls, task: GroupTask, place: Surroundings, threads: int) -> Job:
        """The job of a run whose process this is."""
        data, none = place.data, torch.empty(0)
        parts = [part for split in (data.train, data.test) for part in (split.images, split.labels)]
        whole = [part.cpu().numpy() for part in parts if isinstance(part, torch.Tensor)]
        return cls(
            key=os.urandom(8).hex(),
            kind=Kind.here(),
            threads=threads,
            data=dataclasses.replace(data, train=Split(none, none), test=Split(none, none)),
            arrays=tuple(whole) if len(whole) == len(parts) else None,
            source=_moved(place.source, torch.device("cpu")),
            lock=_lock_in(task.folder),
            epochs=place.epochs is not None,
        )


@dataclass
class Result:
    """The end of a task in a worker.

    Args:
        where: the machine and process, for people.
        rows: complete, if it is done.
        shortage: the words of a shortage of memory.
        error: the message, if something cannot be used.
        interrupted: whether it stopped as it was asked to.
        differs, instructions: the versions or the instruction set that keep it from being computed there.
        events: what was not told yet.
        files: by their path below the run's folder, those that are not there yet.
        networks: by phase and member, where the run has no folder.
        node: the machine, as the pool names it.
    """

    where: str
    rows: Rows | None = None
    shortage: str = ""
    error: str = ""
    interrupted: bool = False
    differs: str = ""
    instructions: str = ""
    events: list[Event] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    networks: dict[tuple[str, Member], Parameters] = field(default_factory=dict)
    node: str = ""


class Link(ABC):
    """The line from a worker to the process of its run. Nothing is waited for: what cannot be sent is lost."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.files: dict[str, bytes] = {}
        self.folder: _OwnFolder | None = None
        self._next = time.monotonic() + SECONDS_BETWEEN_EXCHANGES
        self._stopped = False

    def tell(self, name: str, *arguments: Any) -> None:
        """Something that the run's reporter is to be told."""
        if name in REPLACED and self.events and self.events[-1][0] == name:
            self.events.pop()
        self.events.append((name, arguments))
        self._exchange()

    def stop(self) -> bool:
        """Whether the run asked to stop."""
        self._exchange()
        return self._stopped

    def _exchange(self) -> None:
        if time.monotonic() < self._next:
            return
        self.look()
        if self.send(self.events, self.files):
            self.events, self.files = [], {}
        self._stopped = self._stopped or self.asked_to_stop()
        self._next = time.monotonic() + SECONDS_BETWEEN_EXCHANGES

    def look(self, *, send: bool = True) -> None:
        """Take up what was written to a folder of the worker's own; what came from the run is not sent back."""
        if self.folder is not None:
            changed = self.folder.changed()
            self.files |= changed if send else {}

    @abstractmethod
    def send(self, events: list[Event], files: dict[str, bytes]) -> bool:
        """Send these, unless what was sent before is still on its way; whether they are sent."""

    @abstractmethod
    def asked_to_stop(self) -> bool:
        """Whether the run is known to have asked to stop."""

    @abstractmethod
    def fetch(self, path: Path) -> bytes | None:
        """A file on the machine of the run's process; None where it is not there."""


class _Relayed(Reporter):
    """Hands on what a task tells."""

    def __init__(self, link: Link) -> None:
        for name in ("note", "group_started", "group_resumed", "progress", "attacking", "group_finished"):
            setattr(self, name, _teller(link, name))


def _teller(link: Link, name: str) -> Any:
    return lambda *arguments: link.tell(name, *arguments)


def compute_elsewhere(task: GroupTask, job: Job, link: Link) -> Result:
    """A task's end, computed in this process.

    Args:
        task: with its device as it is named here.
        job: of its run.
        link: to the run.
    """
    result = Result(f"{platform.node()}, process {os.getpid()}")
    here = _kind()
    result.differs = job.kind.differs(here)
    if task.device.type == "cpu" and here.instructions != job.kind.instructions:
        result.instructions = here.instructions
    if result.differs or result.instructions:
        return result
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    torch.set_num_threads(job.threads)
    with _folder(task, job, link) as own:
        networks = Networks(own.folder, own.spec, own.run_hash, in_memory=own.protocol.tries_other_networks)
        try:
            place = Surroundings(_data(own, job), networks, _moved(job.source, own.device), _Relayed(link), link.stop)
            if job.epochs:
                place = dataclasses.replace(place, epochs=_teller(link, EPOCHS))
            _, result.rows, result.shortage = compute(own, place)
        except Interrupted:
            result.interrupted = True
        except InputError as error:
            result.error = str(error)
        result.networks = dict(networks.held)
    result.events, result.files = link.events, link.files
    return result


@cache
def _kind() -> Kind:
    return Kind.here()


_LOADED: dict[tuple[str, str], Dataset] = {}
"""The data of the newest job, by its key and the device."""


def _data(task: GroupTask, job: Job) -> Dataset:
    where = (job.key, str(task.device))
    if where not in _LOADED:
        _LOADED.clear()
        _LOADED[where] = _loaded(task, job)
    return _LOADED[where]


def _loaded(task: GroupTask, job: Job) -> Dataset:
    if job.arrays is not None:
        # Copies: what came through shared memory is not to be written to, which torch knows of no tensor.
        train, labels, test, test_labels = (torch.from_numpy(part.copy()).to(task.device) for part in job.arrays)
        return dataclasses.replace(job.data, train=Split(train, labels), test=Split(test, test_labels))
    data = dataclasses.replace(task.data, download=False).load(task.device)
    if data.sha256 == job.data.sha256:
        return data
    raise InputError(
        f"{task.data.dataset}: expected on {platform.node()} the data of the run, found others in {data.source} (their "
        "SHA-256 differ); put the same files there"
    )


def _moved(source: Source | Sources | None, device: torch.device) -> Source | Sources | None:
    """The same on a device."""
    if isinstance(source, Sources):
        return source._replace(each=tuple(_on(each, device) for each in source.each))
    return None if source is None else _on(source, device)


def _on(source: Source, device: torch.device) -> Source:
    signs = source.signs
    moved = signs.to(device) if isinstance(signs, torch.Tensor) else type(signs)(signs.members, device)
    return source._replace(signs=moved)


def _lock_in(folder: Path | None) -> str:
    if folder is None:
        return ""
    with suppress(OSError):
        return (folder / LOCK).read_text(encoding="utf-8", errors="replace")
    return ""


@contextmanager
def _folder(task: GroupTask, job: Job, link: Link) -> Iterator[GroupTask]:
    """The task with the run's folder, where it is here; else with one of the worker's own, whose files are sent."""
    if task.path is None or (job.lock and _lock_in(task.folder) == job.lock):
        yield task
        return
    kept = link.fetch(task.path)
    with tempfile.TemporaryDirectory(prefix="atras-") as name:
        own = dataclasses.replace(task, folder=Path(name))
        link.folder = _OwnFolder(Path(name))
        if kept is not None and own.path is not None:
            own.path.write_bytes(kept)
        link.look(send=False)
        yield own
        link.look()


class _OwnFolder:
    """A worker's own folder in the place of the run's.

    Args:
        path: there, and empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        for name in (checkpoint.FOLDER, FOLDER):
            (path / name).mkdir()
        self._known: dict[str, tuple[int, int]] = {}

    def _stamps(self) -> dict[str, tuple[int, int]]:
        paths = self._path.glob("*/*.safetensors")
        stats = {str(path.relative_to(self._path)): path.stat() for path in paths if not path.name.startswith(".")}
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}

    def changed(self) -> dict[str, bytes]:
        """What was written since this was last asked, by its path."""
        before, self._known = self._known, self._stamps()
        new = [name for name, stamp in self._known.items() if before.get(name) != stamp]
        return {name: (self._path / name).read_bytes() for name in new}
