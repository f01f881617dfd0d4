"""The candidates whose adversarial images others of a run are trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from atras.defences import EnsembleTraining
from atras.engines import ENGINES
from atras.errors import InputError
from atras.evaluation import PREFIX, AllSigns, Source, Sources, joined
from atras.experiment import Protocol, trained_as
from atras.networks import Candidate, Member, Network, Spec
from atras.planning import Group, Machine, Planned, Training, source_trainings
from atras.training import Snapshot, begun_with, training_signs

from .planned_task import TaskWatcher
from .training_task import engine_protocol, first_of, in_parts
from .unit import Surroundings, Task


def source_candidates(protocol: Protocol, spec: Spec) -> tuple[Candidate, ...]:
    """The candidates whose adversarial images others train on; none where each trains on its own.

    Raises:
        InputError: if the run has not those that its defence names, or too few.
    """
    by_size = sorted(protocol.candidates, key=lambda candidate: Network(spec, candidate).parameter_count)
    if isinstance(protocol.defence, EnsembleTraining):
        return protocol.defence.chosen(by_size)
    if protocol.defence.source == "own":
        return ()
    if protocol.defence.source == "smallest":
        return (by_size[0],)
    named = {candidate.name: candidate for candidate in protocol.candidates}
    return (named.get(protocol.defence.source) or Candidate.parse(protocol.defence.source),)


def all_candidates(protocol: Protocol, spec: Spec) -> list[Candidate]:
    """Those of a protocol, and those whose copies its defence takes."""
    return [*protocol.candidates, *source_candidates(protocol, spec)]


def sources_of(planned: Sequence[Planned], sizes: tuple[int, int], machine: Machine) -> list[Training]:
    """The first trainings that members need whose defence learns from others.

    Args:
        planned: their groups, at least one, whose variants could all share one; the first one's engine computes these
            too where it can.
        sizes: training and test images.
        machine: that computes them.
    """
    group, protocol, spec = planned[0]
    variants = dict.fromkeys(member.variant for each in planned for member in each.group.members)
    return [
        training
        for candidate in source_candidates(protocol, spec)
        for training in source_trainings(candidate, group, variants, protocol, spec, sizes, machine)
    ]


def defence_source(
    members: Sequence[Member], task: Task, trainings: Sequence[Training], place: Surroundings
) -> Source | Sources | None:
    """The adversarial images that the defence of a task's members learns from, besides their own.

    Args:
        members: that learn.
        task: theirs.
        trainings: of the networks that are attacked; those that are not done are computed here.
        place: this process, which keeps the images for the next task.

    Raises:
        Interrupted: if the run was asked to stop.
        ShortageError: if there is no memory for one seed.
        InputError: if the plan lacks a training, or if a checkpoint is damaged, or cannot be written.
    """
    found = []
    for candidate in source_candidates(task.protocol, task.spec):
        own = [training for training in trainings if training.group.members[0].candidate == candidate]
        known = {member for training in own for member in training.group.members}
        for member in members:
            if trained_as(member._replace(candidate=candidate)) not in known:
                raise InputError(
                    f"plan: expected a training of {candidate.name}, on whose adversarial images {member.name} learns, "
                    "found none; leave the recorded plan out to plan anew"
                )
        found.append(_source(candidate, own, task, place))
    if task.protocol.defence.others:
        return Sources(tuple(found), task.protocol.defence.others)
    return found[0] if found else None


def _source(candidate: Candidate, trainings: Sequence[Training], task: Task, place: Surroundings) -> Source:
    """One of them, with its signs."""
    members = [member for training in trainings for member in training.group.members]
    seeds, variants = tuple(member.seed for member in members), tuple(member.variant for member in members)
    signs = joined([_signs(training, task, place) for training in trainings])
    return Source(candidate.name, signs, seeds, variants)


def _signs(training: Training, task: Task, place: Surroundings) -> AllSigns:
    """Those of the training images of a training's networks; they depend on the attack's label, not on its epsilon."""
    attack = task.protocol.attack
    key = training.key, attack.label_source, attack.target
    if key not in place.signs:
        first = first_of(training, task, place)
        place.reporter.note(f"{training.label}: attacking its training images")

        def work(part: Group) -> AllSigns:
            protocol = engine_protocol(part, task.protocol)
            engine = ENGINES.get(part.engine)(task.spec, part.members, protocol, task.device)
            own = training.of(part)
            snapshot = begun_with(part.members, [first])
            snapshot = dataclasses.replace(snapshot, tensors=snapshot.tensors | place.first.signs_so_far(own, attack))
            keeper = _Keeper(task, own, place)
            return training_signs(engine, place.data, protocol, part.evaluation_batch, keeper, snapshot, part.chunk)

        place.signs[key] = joined(in_parts(task, training, place, work))
    return place.signs[key]


class _Keeper(TaskWatcher):
    """Keeps how far the attack on a training's images is, from which this and other processes go on."""

    def __init__(self, task: Task, training: Training, place: Surroundings) -> None:
        super().__init__(task, place)
        self._attack, self._training = task.protocol.attack, training
        self.keeps = task.folder is not None

    def write(self, snapshot: Snapshot) -> None:
        signs = {name: values for name, values in snapshot.tensors.items() if name.startswith(PREFIX)}
        self.place.first.keep_signs(self._training, self._attack, signs)
