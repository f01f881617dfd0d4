"""The tasks of a plan: which are left of it, in which order they come, and what each is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from atras.evaluation import Row
from atras.experiment import Execution, Protocol
from atras.networks import Candidate, Spec, Variant, Weights
from atras.planning import Group, halves, needed_by, spec_of
from atras.results import Writer
from atras.version import __version__

from .data_place import DataPlace
from .first_trainings import FirstTrainings, first_name
from .plans import memory_cap
from .prepare import Prepared
from .shards import Shard
from .task import GroupTask
from .training_task import TrainingTask
from .unit import Task
from .variants import group_protocol


class PlanTasks:
    """The tasks of a run's plan. Groups have its numbers, from 0; first trainings have numbers below 0, from -1.

    Args:
        prepared: the run, with its plan.
        data_place: where the images are.
        protocol, execution: of the run.
        writer: of the run's folder, whose record says what is finished.
        given: weights of the candidates that are finished before the run begins.
    """

    def __init__(
        self,
        prepared: Prepared,
        data_place: DataPlace,
        protocol: Protocol,
        execution: Execution,
        writer: Writer,
        given: Mapping[Candidate, Weights],
    ) -> None:
        self.device, self.data, self.spec, self.plan = prepared
        self.data_place, self.protocol, self.execution = data_place.absolute, protocol, execution
        self.writer, self.given = writer, {candidate: each.tensors for candidate, each in given.items()}
        self.first = FirstTrainings(writer.directory, protocol.hash)
        self.own_protocols: dict[tuple[Variant, str], tuple[Protocol, Spec]] = {}
        self.hash = protocol.hash
        self.shard = Shard.from_dict(writer.run.get("shard"))

    @property
    def finished(self) -> set[int]:
        """Numbers of the groups whose rows are in the results."""
        return set(self.writer.run["finished_groups"])

    def left(self) -> list[int]:
        """Numbers of the groups that are still to be computed here."""
        numbered, finished = enumerate(self.plan.groups), self.finished
        return [
            index
            for index, group in numbered
            if index not in finished and (self.shard is None or self.shard.has(group))
        ]

    def unfinished(self) -> Collection[Group]:
        """The groups whose rows are still to come."""
        finished = self.finished
        return [group for index, group in enumerate(self.plan.groups) if index not in finished]

    def needed(self, groups: Sequence[int]) -> list[int]:
        """Numbers of the first trainings that groups need and that are not done."""
        wanted = {each for task in map(self.group, groups) for each in task.trainings if not task.is_past(each)}
        numbered = enumerate(self.plan.trainings)
        return [-1 - place for place, each in numbered if each in wanted and self.first.get(each) is None]

    def of(self, groups: Sequence[int]) -> list[Task]:
        """The tasks of groups, each behind the first trainings that it needs and that are not done."""
        made: list[Task] = []
        waiting = {self.plan.trainings[-1 - number].key: number for number in self.needed(groups)}
        for task in map(self.group, groups):
            made += [self.training(waiting.pop(each.key)) for each in task.trainings if each.key in waiting]
            made.append(task)
        return made

    def group(self, number: int) -> GroupTask:
        """The task of a group of the plan."""
        group = self.plan.groups[number]
        own = self.own_protocol(group.variant, group.precision)
        candidates = {member.candidate for member in group.members}
        trainings = needed_by(group, self.plan.trainings)
        shared: Row = {
            "dataset": self.data.name, "defence": str(own[0].defence),
            "version": __version__, "protocol_hash": self.hash,
        }  # fmt: skip
        return GroupTask(
            **self._common(number, len(self.plan.groups), own, shared),
            group=group,
            population=len(self.protocol.pairs),
            given={each: tensors for each, tensors in self.given.items() if each in candidates},
            trainings=trainings,
            files=() if self.writer.directory is None else tuple(first_name(each.key) for each in trainings),
        )

    def training(self, number: int) -> TrainingTask:
        """The task of a first training."""
        training = self.plan.trainings[-1 - number]
        own = self.own_protocol(training.variants[0], training.group.precision)
        return TrainingTask(**self._common(number, len(self.plan.trainings), own, {}), training=training)

    def _common(self, number: int, total: int, own: tuple[Protocol, Spec], shared: Row) -> dict[str, Any]:
        """What all tasks of the plan have, as arguments by name."""
        protocol, spec = own
        return {
            "protocol": protocol,
            "spec": spec,
            "index": number,
            "total": total,
            "device": self.device,
            "data": self.data_place,
            "folder": self.writer.directory,
            "checkpoint_every": self.execution.checkpoint_every,
            "run_hash": self.hash,
            "shared": shared,
            "memory_bytes": memory_cap(self.execution, self.device),
        }

    def own_protocol(self, variant: Variant, precision: str) -> tuple[Protocol, Spec]:
        """The experiment of groups of a variant, and what their networks share.

        They are made once: ten thousand candidates take a while to check.
        """
        key = variant, precision
        if key not in self.own_protocols:
            own = group_protocol(self.protocol, variant, len(self.data.test))
            self.own_protocols[key] = own.replace(precision=precision), spec_of(own, self.spec)
        return self.own_protocols[key]

    def divide(self, task: GroupTask) -> tuple[Group, Group]:
        """Put two halves in the place of a group: one there, one at the end."""
        sizes = len(self.data.train), len(self.data.test)
        kind, streamed = self.device.type, self.data.streamed
        first, second = halves(task.group, task.protocol, task.spec, *sizes, kind, streamed)
        groups, index = self.plan.groups, task.index
        self.plan = dataclasses.replace(self.plan, groups=(*groups[:index], first, *groups[index + 1 :], second))
        return first, second
