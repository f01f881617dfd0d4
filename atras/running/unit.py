"""One unit of a run's work: what executors know of it, whatever it computes, and the process that it is computed in."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch

from atras.data import Dataset
from atras.evaluation import AllSigns, Row, Rows
from atras.experiment import Protocol
from atras.loggers import EpochRow
from atras.networks import Spec
from atras.planning import Machine
from atras.storage import remove_file
from atras.torch_state import threads
from atras.training import Networks, Snapshot, checkpoint

from .data_place import DataPlace
from .first_trainings import FirstTrainings
from .progress import Reporter

OVERHEAD = 0.02
"""Most of a run's time that writing checkpoints may take; they are written less often where it would be more."""

SECONDS_BETWEEN_TELLS = 0.1
"""Least time between two things that a reporter is told of work under way."""


@dataclass(frozen=True)
class Surroundings:
    """The process that tasks are computed in.

    Args:
        data: on the tasks' device.
        networks: where trained networks go.
        first: first trainings that are done.
        reporter: told of everything.
        stop: asked between calls whether to stop.
        lost: told of each worker that a task was lost with, as the run records it.
        split: told of each part of a first training that memory did not suffice for, as the run records it.
        epochs: told of each epoch of members, where somebody wants to know.
        kept: what a task leaves here for later ones of its kind, by a name of its own.
        signs: of adversarial training images that were made here, by what they depend on.
    """

    data: Dataset
    networks: Networks
    first: FirstTrainings
    reporter: Reporter
    stop: Callable[[], bool]
    lost: Callable[[Row], None] = lambda _: None
    split: Callable[[Row], None] = lambda _: None
    epochs: Callable[[Sequence[EpochRow]], None] | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    signs: dict[tuple[str, str, str], AllSigns] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One unit of work. It can be pickled; what belongs to a process is in `Surroundings`.

    Args:
        protocol: with a definite precision.
        spec: what the networks share.
        index: its number among the tasks that an executor is given together.
        device: where to compute.
        data: where the images are.
        folder: the run's; None for a run in memory, which has no checkpoints.
        checkpoint_every: seconds.
        run_hash: of the protocol as it was asked for.
        shared: values of the columns that all rows of the run share.
        memory_bytes: most that what is computed at once may be predicted to take.
        files: by their names below the run's folder, those that it reads beside its checkpoint.
        held: the first trainings that it needs, by their keys, of a run in memory, where another process computes it.
    """

    protocol: Protocol
    spec: Spec
    index: int
    device: torch.device
    data: DataPlace
    folder: Path | None
    checkpoint_every: float
    run_hash: str
    shared: Row
    memory_bytes: int
    files: tuple[str, ...] = ()
    held: Mapping[str, Snapshot] = field(default_factory=dict)

    reads_networks: ClassVar[bool] = False
    """Whether it reads the run's networks, of which it makes none."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Its name, for people."""

    @property
    @abstractmethod
    def record(self) -> Row:
        """How `run.json` names it."""

    @property
    @abstractmethod
    def predicted_bytes(self) -> int:
        """Most memory at once."""

    @property
    @abstractmethod
    def predicted_seconds(self) -> float | None:
        """Of all; None where speed was not measured."""

    @property
    @abstractmethod
    def flops(self) -> int:
        """Its work, in any unit that tasks of its kind share."""

    @property
    @abstractmethod
    def divisible(self) -> bool:
        """Whether it can be computed in smaller parts."""

    @property
    def makes(self) -> str:
        """The key of the first training that it is; empty where it is none."""
        return ""

    @property
    def needs(self) -> frozenset[str]:
        """The keys of the first trainings that are to be done before it begins."""
        return frozenset()

    @property
    @abstractmethod
    def path(self) -> Path | None:
        """Of its checkpoint."""

    @abstractmethod
    def run(self, place: Surroundings) -> Rows:
        """Its rows, from its checkpoint where there is one.

        Raises:
            Interrupted: if the run was asked to stop.
            InputError: if the checkpoint is damaged, or something cannot be written.
        """

    @property
    def common(self) -> dict[str, Any]:
        """What a task of another kind has in common with it, as arguments by name: those of `Task`."""
        return {each.name: getattr(self, each.name) for each in fields(Task)}

    @property
    def machine(self) -> Machine:
        """Where it is computed, as far as the size of groups depends on it."""
        return Machine(self.device.type, self.memory_bytes, threads=threads().amount)

    def forget(self) -> None:
        """Delete the checkpoint: the rows are where they belong."""
        if self.path is not None:
            remove_file(self.path)
            checkpoint.remove_folder_if_empty(self.path.parent)


class NextCheckpoint:
    """When the next checkpoint of a task is due.

    Args:
        every: seconds; 0 for whenever one can be written.
    """

    def __init__(self, every: float) -> None:
        self._every, self._time = every, time.perf_counter() + every

    @property
    def due(self) -> bool:
        return time.perf_counter() >= self._time

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write one within this; the next is due some time after its end."""
        begin = time.perf_counter()
        yield
        end = time.perf_counter()
        self._time = end + (max(self._every, (end - begin) / OVERHEAD) if self._every else 0)
