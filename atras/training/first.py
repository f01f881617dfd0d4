"""The first training by itself: for groups that begin with it, or learn from the networks that it leads to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from atras.data import Dataset
from atras.engines import KINDS, Engine
from atras.evaluation import AllSigns, Row, Rows
from atras.experiment import Protocol, trained_as
from atras.networks import Member

from .stages import STAGES, Snapshot, Watcher, _Stages

TOLD_OF_MEMBERS = ("finite", "dead", "accuracies")
"""What a record has a value of for each member."""


class First(NamedTuple):
    """A first training that is done.

    Args:
        members: as it knows them.
        snapshot: behind it.
    """

    members: tuple[Member, ...]
    snapshot: Snapshot


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
    stages = _Stages(engine, data, protocol, evaluation_batch, watcher, chunk=chunk)
    try:
        if snapshot is not None:
            stages.restore(snapshot)
        if stages.stage == STAGES[0]:
            stages.train(protocol.epochs, len(data.train))
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
    stages = _Stages(engine, data, protocol, evaluation_batch, watcher, chunk=chunk)
    try:
        stages.restore(snapshot)
        signs, _ = stages.evaluator.signs_of("train")
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
    place = {member: (first, index) for first in trained for index, member in enumerate(first.members)}
    chosen = [place[trained_as(member)] for member in members]
    record = dict(trained[0].snapshot.record)
    record |= {name: [first.snapshot.record[name][index] for first, index in chosen] for name in TOLD_OF_MEMBERS}
    rows = Rows()
    tables = {id(first): _by_member(first) for first in trained}
    for (first, index), member in zip(chosen, members, strict=True):
        for frame, own in tables[id(first)][first.members[index].name].rows.items():
            getattr(rows, frame).extend({**row, "variant": member.variant.name} for row in own)
    for own_rows in (rows.history, rows.metrics):
        own_rows.sort(key=lambda row: int(str(row["epoch"])))  # epoch by epoch, and in each in the order of the members
    tensors = {
        f"{kind}/{member.name}/{parameter}": values
        for (first, index), member in zip(chosen, members, strict=True)
        for (kind, parameter), values in tables[id(first)][first.members[index].name].tensors.items()
    }
    count = len(members)
    tensors |= {
        "steps": torch.tensor(0, dtype=torch.int64), "losses": torch.zeros(count, 0, dtype=torch.float64),
        "correct": torch.zeros(count, 0, dtype=torch.int64),
    }  # fmt: skip
    return Snapshot(STAGES[1], 0, 0.0, record | {"rows": rows.to_dict(), "shown": []}, tensors)


class _Own(NamedTuple):
    """What a training has of one member: rows by frame, and tensors by kind and parameter."""

    rows: dict[str, list[Row]]
    tensors: dict[tuple[str, str], torch.Tensor]


def _by_member(first: First) -> dict[str, _Own]:
    """By the names of members. Seconds are of the training, not of its members."""
    found = {member.name: _Own({"history": [], "metrics": []}, {}) for member in first.members}
    names = {(m.candidate.name, m.variant.name, m.seed): m.name for m in first.members}
    frames: dict[str, Any] = first.snapshot.record["rows"]
    for frame in ("history", "metrics"):
        for row in frames[frame]:
            found[names[row["hidden_layers"], row["variant"], row["seed"]]].rows[frame].append(row)
    for name, values in first.snapshot.tensors.items():
        kind, _, rest = name.partition("/")
        member, _, parameter = rest.rpartition("/")
        if kind in KINDS and member in found:
            found[member].tensors[kind, parameter] = values
    return found
