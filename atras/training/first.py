"""The first training by itself: for groups that begin with it, or learn from the networks that it leads to."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch

from atras.data import Dataset
from atras.engines import KINDS, Engine
from atras.evaluation import AllSigns, Row, Rows
from atras.experiment import Protocol, trained_as
from atras.networks import Member

from .snapshot import STAGES, Snapshot
from .stages import _Stages
from .tools import tools_of
from .watcher import Watcher

TOLD_OF_MEMBERS = ("finite", "dead", "accuracies")
"""What a record has a value of for each member."""

FIRST_PHASE = f"{STAGES[0]}-trained"
"""Names the first training in the timings of a record."""


class _Own(NamedTuple):
    """What a training has of one member: its place there, rows by frame, and tensors by kind and parameter."""

    place: int
    rows: dict[str, list[Row]]
    tensors: dict[tuple[str, str], torch.Tensor]


@dataclass(frozen=True, eq=False)
class First:
    """A first training that is done.

    Args:
        members: as it knows them.
        snapshot: behind it.
    """

    members: tuple[Member, ...]
    snapshot: Snapshot

    @property
    def seconds(self) -> float:
        """That it took, in all processes."""
        timings = self.snapshot.record["rows"]["timings"]
        return sum(float(row["seconds"]) for row in timings if row["phase"] == FIRST_PHASE)

    @cached_property
    def by_member(self) -> dict[Member, _Own]:
        """What it has of each member; made once, as engines of one member ask for it again and again."""
        own = [_Own(place, {"history": [], "metrics": []}, {}) for place in range(len(self.members))]
        named = {member.name: one for member, one in zip(self.members, own, strict=True)}
        names = {(m.candidate.name, m.variant.name, m.seed): m.name for m in self.members}
        frames: dict[str, Any] = self.snapshot.record["rows"]
        for frame in ("history", "metrics"):
            for row in frames[frame]:
                named[names[row["hidden_layers"], row["variant"], row["seed"]]].rows[frame].append(row)
        for name, values in self.snapshot.tensors.items():
            kind, _, rest = name.partition("/")
            member, _, parameter = rest.rpartition("/")
            if kind in KINDS and member in named:
                named[member].tensors[kind, parameter] = values
        return dict(zip(self.members, own, strict=True))


def joined_first(members: Sequence[Member], parts: Sequence[First]) -> First:
    """A first training that was made in parts, which have all its members and no others."""
    if len(parts) == 1:
        return parts[0]
    snapshot = begun_with(members, parts)
    timings = [dict(row) for part in parts for row in part.snapshot.record["rows"]["timings"]]
    rows = snapshot.record["rows"] | {"timings": timings}
    return First(tuple(members), replace(snapshot, record=snapshot.record | {"rows": rows}))


def is_first(snapshot: Snapshot) -> bool:
    """Whether the first training is done, and nothing else."""
    return snapshot.stage == STAGES[1] and not snapshot.epoch


def train_first(
    engine: Engine,
    data: Dataset,
    protocol: Protocol,
    evaluation_batch: int,
    watcher: Watcher,
    snapshot: Snapshot | None = None,
    chunk: int = 0,
) -> None:
    """Train the members as in the first training; the watcher's last snapshot is the one behind it.

    Args:
        engine: freshly made.
        data, protocol, evaluation_batch, watcher, snapshot, chunk: as in `run_group`.

    Raises:
        Interrupted: if the watcher asked to stop.
    """
    stages = _Stages(tools_of(engine, data, protocol, evaluation_batch, watcher, chunk=chunk))
    try:
        if snapshot is not None:
            stages.restore(snapshot)
        if stages.stage == STAGES[0]:
            stages.epochs.train(protocol.epochs, len(data.train))
            stages.enter(STAGES[1])
        stages.keep()
    finally:
        stages.let_go()


def training_signs(
    engine: Engine,
    data: Dataset,
    protocol: Protocol,
    evaluation_batch: int,
    watcher: Watcher,
    snapshot: Snapshot,
    chunk: int = 0,
) -> AllSigns:
    """Attack the training images of members behind their first training.

    Args:
        engine: freshly made.
        data, protocol, evaluation_batch, chunk: as in `run_group`.
        watcher: asked whether to stop; it may keep how far this is, from which it goes on.
        snapshot: behind the first training.

    Returns:
        Signs [M, N, C, H, W] of the adversarial training images.

    Raises:
        Interrupted: if the watcher asked to stop.
    """
    stages = _Stages(tools_of(engine, data, protocol, evaluation_batch, watcher, chunk=chunk))
    try:
        stages.restore(snapshot)
        signs, _ = stages.tools.evaluator.signs_of("train")
        stages.keep()
        return signs
    finally:
        stages.let_go()


def begun_with(members: Sequence[Member], trained: Sequence[First]) -> Snapshot:
    """The snapshot of members behind their first training, made of trainings that have each of them.

    Args:
        members: of one engine; several may have had one training.
        trained: which, of one engine and precision.
    """
    having = {member: first for first in trained for member in first.members}
    firsts = [having[trained_as(member)] for member in members]
    owns = [first.by_member[trained_as(member)] for first, member in zip(firsts, members, strict=True)]
    record = dict(trained[0].snapshot.record)
    # Copies: a recorder writes into what it goes on from, which others go on from too.
    record |= {
        name: [copy(first.snapshot.record[name][own.place]) for first, own in zip(firsts, owns, strict=True)]
        for name in TOLD_OF_MEMBERS
    }
    rows = Rows()  # no timings: their seconds are of a training, not of its members
    for own, member in zip(owns, members, strict=True):
        for frame, theirs in own.rows.items():
            getattr(rows, frame).extend({**row, "variant": member.variant.name} for row in theirs)
    for own_rows in (rows.history, rows.metrics):
        own_rows.sort(key=lambda row: int(str(row["epoch"])))  # epoch by epoch, and in each in the order of the members
    tensors = {
        f"{kind}/{member.name}/{parameter}": values
        for own, member in zip(owns, members, strict=True)
        for (kind, parameter), values in own.tensors.items()
    }
    count, cpu = len(members), torch.device("cpu")
    tensors |= {
        "steps": torch.tensor(0, dtype=torch.int64, device=cpu),
        "losses": torch.zeros(count, 0, dtype=torch.float64, device=cpu),
        "correct": torch.zeros(count, 0, dtype=torch.int64, device=cpu),
    }
    return Snapshot(STAGES[1], 0, 0.0, record | {"rows": rows.to_dict(), "shown": []}, tensors)
