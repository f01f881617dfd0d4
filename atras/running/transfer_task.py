"""A part of the transfer as a task: some networks are attacked, and their images tried on all that are given them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from atras.attacks import Attack
from atras.errors import Interrupted
from atras.evaluation import Held, Origin, Part, Row, Rows, Transfer, Trial
from atras.networks import Member, Variant
from atras.planning import Group, tighter
from atras.torch_state import fixed_state
from atras.training import checkpoint

from .origins import Origins
from .unit import SECONDS_BETWEEN_TELLS, NextCheckpoint, Surroundings, Task

PREFIX = "transfer-"
"""Begins the names of its checkpoints."""

KEPT = "transfer"
"""The name of what it leaves to the next one in the same process."""


@dataclass(frozen=True, kw_only=True)
class TransferTask(Task):
    """One attack on networks that are attacked together, and all trials of the images.

    Args:
        variant: of all members.
        parts: those that are attacked or tried, as they are computed together.
        attack: with a definite epsilon.
        origins: what it is made on.
        numbers: of the trials, among all of the variant.
        trials: these, in the same order.
        fine: by phase, the members of the parts that have parameters.
        cap: most bytes that classifiers and attacked images may take together; 0 for one part at a time.
        need: bytes that it is predicted to take.
        work: in any unit.
    """

    variant: Variant
    parts: tuple[Group, ...]
    attack: Attack
    origins: tuple[Origin, ...]
    numbers: tuple[int, ...]
    trials: tuple[Trial, ...]
    fine: Mapping[str, frozenset[Member]]
    cap: int
    need: int
    work: int

    reads_networks: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return f"transfer, {self.attack.name} on {self._sources}"

    @property
    def _sources(self) -> str:
        names = dict.fromkeys(network.member.candidate.name for origin in self.origins for network in origin.networks)
        first, *others = names
        return f"{first} and {len(others)} more" if others else first

    @property
    def record(self) -> Row:
        return {"group": None, "phase": "transfer", "members": self.members}

    @property
    def members(self) -> int:
        """Of all its parts."""
        return sum(len(part.members) for part in self.parts)

    @property
    def predicted_bytes(self) -> int:
        return self.need

    @property
    def predicted_seconds(self) -> float | None:
        return None

    @property
    def flops(self) -> int:
        return self.work

    @property
    def divisible(self) -> bool:
        return self.cap > 0 or tighter(self.parts, self.protocol, self.spec, self.machine) is not None

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name it by its trials, and by all that is attacked together."""
        attacked = [f"{phase} {member.name}" for origin in self.origins for phase, member in origin.networks]
        text = f"{self.variant.name} {' '.join(map(str, self.numbers))} {' '.join(attacked)}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def path(self) -> Path | None:
        name = f"{PREFIX}{self.key}.safetensors"
        return None if self.folder is None else self.folder / checkpoint.FOLDER / name

    def run(self, place: Surroundings) -> Rows:
        with fixed_state(self.device):  # also where checkpoints are read and written: a caller may have set anything
            return self._rows(place)

    def _rows(self, place: Surroundings) -> Rows:
        work = Transfer(place.data, self.protocol, self.trials, self.fine)
        keeper = _Keeper(work, self, place)
        work.pause = keeper.pause
        try:
            _There.of(self, place).run(work, self, place)
        except BaseException:
            place.kept.pop(KEPT, None)  # its memory is wanted
            raise
        keeper.end()
        timing: Row = {"phase": "transfer", "members": self.members, "seconds": keeper.seconds, "steps": 0}
        return Rows(transfer=work.rows(), timings=[timing])


class _There:
    """Classifiers that stay in a process from one task to the next, as far as the cap allows."""

    def __init__(self, task: TransferTask, place: Surroundings) -> None:
        self._of = task.run_hash, task.variant
        self._networks, self._data = place.networks, place.data
        self._held = Held()
        self._parts: dict[Group, Part[Any]] = {}

    @classmethod
    def of(cls, task: TransferTask, place: Surroundings) -> _There:
        """What an earlier task of the same networks left here; else nothing."""
        kept = place.kept.get(KEPT)
        if isinstance(kept, cls) and kept._fits(task, place):
            return kept
        place.kept.pop(KEPT, None)
        new = place.kept[KEPT] = cls(task, place)
        return new

    def _fits(self, task: TransferTask, place: Surroundings) -> bool:
        same = self._networks is place.networks and self._data is place.data
        return same and self._of == (task.run_hash, task.variant)

    def run(self, work: Transfer, task: TransferTask, place: Surroundings) -> None:
        """All trials of a task that are left."""
        origins = Origins(task.parts, task.fine, task, place, self._parts)
        own = dict(zip(task.parts, origins.parts, strict=True))
        source = origins.together(task.origins)
        everyone = self._parts | own
        images = source.part.evaluation_batch * source.part.image_bytes
        need = sum(part.predicted_bytes for part in {*everyone.values(), source.part}) + images
        self._parts = everyone if need <= task.cap else own
        self._held.only(self._parts.values())
        work.run(origins.parts, task.cap, lambda *_: iter([source]), self._held)
        self._held.only(self._parts.values())  # not what was made for this task alone


class _Keeper:
    """Keeps in a checkpoint what a task has counted, takes it from there, and tells how far it is.

    Raises:
        InputError: if the checkpoint is damaged.
    """

    def __init__(self, work: Transfer, task: TransferTask, place: Surroundings) -> None:
        self._work, self._stop = work, place.stop
        self._reporter, self._name, self._tell_next = place.reporter, part_name(task.index), 0.0
        self._path = task.path
        self._identity = {
            "protocol_hash": task.run_hash, "variant": task.variant.name, "numbers": list(task.numbers),
        }  # fmt: skip
        self._before, self._start = 0.0, time.perf_counter()
        self._next = NextCheckpoint(task.checkpoint_every)
        if self._path is not None and self._path.exists():
            document, tensors = checkpoint.read(self._path)
            if all(document.get(name) == value for name, value in self._identity.items()):
                self._before = document["seconds"]
                work.load(document["transfer"], tensors)

    @property
    def seconds(self) -> float:
        """Of all processes so far."""
        return self._before + time.perf_counter() - self._start

    def pause(self) -> None:
        """Keep what is counted when that is due, tell how far it is, and stop when asked."""
        stop = self._stop()
        if (now := time.perf_counter()) >= self._tell_next:
            self._tell_next = now + SECONDS_BETWEEN_TELLS
            self._reporter.part(self._name, self._work.share)
        if stop or self._next.due:
            self._keep()
        if stop:
            raise Interrupted

    def end(self) -> None:
        """Keep all counts, which are written with those of the other tasks."""
        self._keep()
        self._reporter.part(self._name, 1.0)

    def _keep(self) -> None:
        if self._path is not None:
            with self._next.writing():
                document = self._identity | {"seconds": self.seconds, "transfer": self._work.to_dict()}
                checkpoint.write(self._path, document, self._work.tensors())


def part_name(index: int) -> str:
    """What a reporter is told of a task."""
    return f"transfer {index}"


class Counted(NamedTuple):
    """What checkpoints of a variant's transfer have.

    Args:
        correct: predictions of each finished trial, by its number.
        seconds: that they took.
    """

    correct: dict[int, int]
    seconds: float


def counted(folder: Path | None, run_hash: str) -> dict[str, Counted]:
    """By the name of a variant, what checkpoints in a run's folder have.

    Raises:
        InputError: if one is damaged.
    """
    found: dict[str, Counted] = {}
    for path in [] if folder is None else checkpoint.paths(folder, PREFIX):
        document, _ = checkpoint.read(path)
        if document.get("protocol_hash") == run_hash:
            before = found.get(document["variant"], Counted({}, 0.0))
            pairs = zip(document["numbers"], document["transfer"]["correct"], strict=True)
            done = {number: correct for number, correct in pairs if correct is not None}
            seconds = document["seconds"] if done else 0.0  # a task that goes on counts its own
            found[document["variant"]] = Counted(before.correct | done, before.seconds + seconds)
    return found


def forget_transfer(folder: Path) -> None:
    """Delete the checkpoints of the transfer: its rows are where they belong."""
    checkpoint.forget(folder, PREFIX)
