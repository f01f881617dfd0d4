"""A group of members as a task: all that is needed to compute its rows, anywhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from atras.engines import AVERAGE, ENGINES, KINDS
from atras.evaluation import PHASES, Row, Rows, phases_of
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Parameters, Variant
from atras.planning import Group, Training, parts_of
from atras.torch_state import fixed_state
from atras.training import (
    DONE,
    TRAINED,
    First,
    Snapshot,
    begun_with,
    checkpoint,
    first_steps,
    kept_epochs,
    run_group,
    steps_done,
    steps_of,
)

from .defence_source import defence_source
from .epoch_rows import epoch_rows
from .planned_task import PlannedTask, TaskWatcher
from .snapshots import no_checkpoint, snapshot_in
from .training_task import first_of
from .unit import SECONDS_BETWEEN_TELLS, Surroundings

MEASURED = {f"measure_{phase}": phase for phase in PHASES}
"""The networks that are attacked in a stage."""


@dataclass(frozen=True, kw_only=True)
class GroupTask(PlannedTask):
    """A group of the plan, to be computed. Its `index` is the number of the group in the plan, from 0.

    Args:
        group: the members, their engine and evaluation batch.
        population: candidates of the whole run in each of their variants, among which room for pictures is divided.
        given: parameters of the candidates that are finished before the run begins.
        trainings: first trainings that its members need.
    """

    group: Group
    population: int
    given: Mapping[Candidate, Parameters] = field(default_factory=dict)
    trainings: tuple[Training, ...] = ()

    @property
    def planned(self) -> Group:
        return self.group

    @property
    def label(self) -> str:
        return self.group.label

    @property
    def record(self) -> Row:
        return {"group": self.index, "members": len(self.group.members)}

    @property
    def divisible(self) -> bool:
        return len(self.group.members) > 1 and not ENGINES.get(self.group.engine).one_by_one

    @property
    def parts(self) -> list[list[Member]]:
        """The members that one engine object takes."""
        return parts_of(self.group)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(training.key for training in self.trainings)

    def is_past(self, training: Training) -> bool:
        """Whether the group has a checkpoint, and so needs no training any more that it would begin with."""
        return not training.source and self.path is not None and self.path.exists()

    @property
    def path(self) -> Path | None:
        """Of the group's checkpoint."""
        return None if self.folder is None else checkpoint.path_of(self.folder, self.group.members)

    def run(self, place: Surroundings) -> Rows:
        with fixed_state(self.device):
            rows = _Work(self, place).run()
        variants = dict.fromkeys(member.variant for member in self.group.members)
        defences = {variant.name: str(self.protocol.setting("defence", variant)) for variant in variants}
        return rows.completed(self.shared, self.index, defences)


class _Work(TaskWatcher):
    """A task under way: all members at once, or one part after the other where the engine takes one member."""

    def __init__(self, task: GroupTask, place: Surroundings) -> None:
        sources = [each for each in task.trainings if each.source]
        self.source = defence_source(task.group.members, task, sources, place)
        # The first checkpoint is due some time after the sources, which have their own.
        super().__init__(task, place)
        self.task = task
        self.parts, self.path = task.parts, task.path
        self.train_size = len(place.data.train.labels)
        self.rows = Rows()
        self.begins = tuple(each for each in task.trainings if not each.source)
        self.protocols = {task.group.variant: task.protocol}
        self.part = 0
        self.tell_next = 0.0
        self.keeps = self.path is not None or place.networks.wanted

    def run(self) -> Rows:
        """The rows of all parts."""
        start, protocol = time.perf_counter(), self.task.protocol
        before = first_steps(protocol, self.train_size) if self.begins else 0
        each = steps_of(protocol, self.train_size) - before
        reporter, task = self.place.reporter, self.task
        snapshot = self._restored()
        steps = len(self.parts) * each
        reporter.group_started(task.index, task.total, task.group.label, len(task.group.members), steps)
        if snapshot is not None:
            self._put_networks(snapshot)
            self.steps_done = self.part * each + max(0, steps_done(snapshot, protocol, self.train_size) - before)
            reporter.group_resumed(task.index, self.steps_done)
            self.epoch(self.rows)
            self.epoch(Rows(**snapshot.record["rows"]))
        for part in range(self.part, len(self.parts)):
            self.part = part
            self.rows.extend(self._run_part(snapshot))
            snapshot = None
        _add_up_timings(self.rows)
        if told := kept_epochs(self.rows.history):
            reporter.note(f"{task.group.label}: {told}")
        reporter.group_finished(task.index, time.perf_counter() - start)
        return self.rows

    def _run_part(self, snapshot: Snapshot | None) -> Rows:
        task, place = self.task, self.place
        protocol = self._protocol_of(self.parts[self.part][0].variant)
        engine = ENGINES.get(task.group.engine)(task.spec, self.parts[self.part], protocol, task.device)
        for index, member in enumerate(engine.members):
            if member.candidate in task.given:
                engine.set_parameters(index, task.given[member.candidate])
        if snapshot is None and self.begins:
            snapshot = begun_with(engine.members, self.begun)
            self.epoch(Rows(**snapshot.record["rows"]))
        return run_group(
            engine,
            place.data,
            protocol,
            evaluation_batch=task.group.evaluation_batch,
            watcher=self,
            snapshot=snapshot,
            source=self.source,
            chunk=task.group.chunk,
            population=task.population,
        )

    @cached_property
    def begun(self) -> list[First]:
        """The first trainings that its parts begin with, which are read once."""
        return [first_of(each, self.task, self.place) for each in self.begins]

    def _protocol_of(self, variant: Variant) -> Protocol:
        """The experiment of members of a variant; made once, as ten thousand candidates take a while to check."""
        if variant not in self.protocols:
            self.protocols[variant] = self.task.protocol.of(variant)
        return self.protocols[variant]

    def listens(self) -> bool:
        if (now := time.perf_counter()) < self.tell_next:
            return False
        self.tell_next = now + SECONDS_BETWEEN_TELLS
        return True

    def attacking(self, phase: str, attack: str, share: float, work: float) -> None:
        share = (self.part + share) / len(self.parts)
        self.place.reporter.attacking(self.task.index, MEASURED[phase], attack, share, work)

    def epoch(self, rows: Rows) -> None:
        if self.place.epochs is not None:
            self.place.epochs(epoch_rows(rows.history, rows.metrics))

    def keep(self, snapshot: Snapshot) -> None:
        """Write a checkpoint, and the networks when the part is done."""
        self._put_networks(snapshot)
        super().keep(snapshot)

    def write(self, snapshot: Snapshot) -> None:
        if self.path is not None:
            document = self._identity() | {
                "part": self.part, "rows": self.rows.to_dict(), **snapshot.document,
            }  # fmt: skip
            checkpoint.write(self.path, document, snapshot.tensors)

    def _put_networks(self, snapshot: Snapshot) -> None:
        if snapshot.stage != DONE:
            return
        part = self.part if len(self.parts) > 1 else None
        phases = phases_of(self.task.protocol)
        evaluated = KINDS[AVERAGE if self.task.protocol.average else 0]
        for phase, prefix in zip(phases, (TRAINED, evaluated)[-len(phases) :], strict=True):
            networks = _networks(self.parts[self.part], snapshot, prefix)
            self.place.networks.put(phase, self.task.group.members, part, networks, self.task.spec)

    def _identity(self) -> dict[str, Any]:
        """The values in which a checkpoint must agree with a group for the group to go on from it."""
        return {
            "protocol_hash": self.task.run_hash, "parts": len(self.parts),
            "members": [member.name for member in self.task.group.members],
        }  # fmt: skip

    def _restored(self) -> Snapshot | None:
        if self.path is None or not self.path.exists():
            return None
        document, tensors = checkpoint.read(self.path)
        odd = [name for name, value in self._identity().items() if document.get(name) != value]
        if odd:
            self.place.reporter.note(f"{self.task.group.label}: starts anew, its checkpoint is of another {odd[0]}")
            return None
        try:
            self.part, self.rows = document["part"], Rows(**document["rows"])
            before, now = document["record"]["precision"], self.task.protocol.precision
            if before and now not in before.split("+"):
                self.place.reporter.note(f"{self.task.group.label}: goes on in {now}, was trained in {before} so far")
            return snapshot_in(self.path, document, tensors)
        except (KeyError, TypeError) as error:
            raise no_checkpoint(self.path, error) from None


def _networks(members: Sequence[Member], snapshot: Snapshot, prefix: str) -> dict[Member, Parameters]:
    networks: dict[Member, Parameters] = {}
    for member in members:
        start = f"{prefix}/{member.name}/"
        networks[member] = {
            name.removeprefix(start): values for name, values in snapshot.tensors.items() if name.startswith(start)
        }
    return networks


def _add_up_timings(rows: Rows) -> None:
    """One row a phase, where members ran one after the other."""
    timings: dict[object, Row] = {}
    for row in rows.timings:
        if row["phase"] in timings:
            total: Any = timings[row["phase"]]
            for key in ("members", "seconds", "steps"):
                total[key] += row[key]
        else:
            timings[row["phase"]] = dict(row)
    rows.timings = list(timings.values())
