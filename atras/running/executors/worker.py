"""A task in another process than its run's: what it is sent, what it tells meanwhile, and what it sends back."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from atras.data import Dataset, Split
from atras.environment import versions
from atras.errors import InputError, Interrupted
from atras.evaluation import AllSigns, Rows
from atras.kernels import backends
from atras.networks import Member, Parameters
from atras.running.first_trainings import FirstTrainings
from atras.running.progress import Reporter
from atras.running.unit import Surroundings, Task
from atras.training import Networks, Snapshot

from .link import Event, Link, folder_of, lock_in
from .local import compute

EPOCHS = "epochs"
"""The event of an epoch, which the callbacks of a run are told."""

SPLIT = "split"
"""The event of a first training that goes on in smaller parts, which the run records."""


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
        lock: content of the lock of the run's folder, by which a worker sees whether it has the same folder.
        epochs: whether the run wants to know of each epoch.
        networks: by phase and member, those that tasks read, of a run that has no folder.
    """

    key: str
    kind: Kind
    threads: int
    data: Dataset
    arrays: tuple[np.ndarray, ...] | None
    lock: str
    epochs: bool = False
    networks: Mapping[tuple[str, Member], Parameters] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, place: Surroundings, threads: int) -> Job:
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
            lock=lock_in(task.folder),
            epochs=place.epochs is not None,
            networks=dict(place.networks.held) if task.reads_networks else {},
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
        first: first trainings that were made, by their keys, where it has none.
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
    first: dict[str, Snapshot] = field(default_factory=dict)
    node: str = ""


class _Relayed(Reporter):
    """Hands on what a task tells."""

    def __init__(self, link: Link) -> None:
        for name in ("note", "part", "group_started", "group_resumed", "progress", "attacking", "group_finished"):
            setattr(self, name, _teller(link, name))


def _teller(link: Link, name: str) -> Any:
    return lambda *arguments: link.tell(name, *arguments)


def compute_elsewhere(task: Task, job: Job, link: Link) -> Result:
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
    with folder_of(task, job.lock, link) as own:
        networks, kept = _networks(own, job)
        first = FirstTrainings(own.folder, own.run_hash, own.held)
        try:
            data = _data(own, job)
            place = Surroundings(data, networks, first, _Relayed(link), link.stop, kept=kept, signs=_SIGNS)
            place = dataclasses.replace(place, split=_teller(link, SPLIT))
            if job.epochs:
                place = dataclasses.replace(place, epochs=_teller(link, EPOCHS))
            _, result.rows, result.shortage = compute(own, place)
        except Interrupted:
            result.interrupted = True
        except InputError as error:
            result.error = str(error)
        result.networks = {} if own.reads_networks else dict(networks.held)
        result.first = {key: made for key, made in first.held.items() if key not in own.held}
    result.events, result.files = link.events, link.files
    return result


@cache
def _kind() -> Kind:
    return Kind.here()


_LOADED: dict[tuple[str, str], Dataset] = {}
"""The data of the newest job, by its key and the device."""

_SIGNS: dict[tuple[str, str, str], AllSigns] = {}
"""Of adversarial images of its first trainings."""


_READ: dict[tuple[str, Path | None], tuple[Networks, dict[str, Any]]] = {}
"""The networks that tasks of the newest job read, by its key and the folder, and what such tasks left here."""


def _networks(task: Task, job: Job) -> tuple[Networks, dict[str, Any]]:
    """The networks that a task makes or reads, and what earlier ones left for it."""
    where = (job.key, task.folder)
    if where not in _READ or not task.reads_networks:
        _READ.clear()
    if task.reads_networks:
        _SIGNS.clear()  # no group comes any more that learns from them
    if not task.reads_networks:
        return Networks(task.folder, task.spec, task.run_hash, in_memory=task.protocol.tries_other_networks), {}
    if where not in _READ:
        networks = Networks(task.folder, task.spec, task.run_hash, in_memory=True)
        for (phase, member), parameters in job.networks.items():
            networks.put(phase, [member], None, {member: parameters})
        _READ[where] = networks, {}
    return _READ[where]


def _data(task: Task, job: Job) -> Dataset:
    where = (job.key, str(task.device))
    if where not in _LOADED:
        _LOADED.clear()
        _SIGNS.clear()
        _LOADED[where] = _loaded(task, job)
    return _LOADED[where]


def _loaded(task: Task, job: Job) -> Dataset:
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
