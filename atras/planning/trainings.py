"""First trainings as work of their own, before the groups that need them: those of a defence's sources, and those that
several groups begin with. They are a pure function of protocols and groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from atras.engines import ENGINES
from atras.experiment import Protocol, trained_as
from atras.networks import Candidate, Member, Network, Spec, Variant
from atras.training import selects_in

from .cost import training_flops
from .grouping import first_samples, training_group
from .machine import Machine
from .plan import SECONDS, Group, Training
from .shape import spec_of

PIECES = 2
"""Trainings for each machine, of those that groups begin with, where members allow that."""


def source_trainings(
    candidate: Candidate,
    first: Group,
    variants: Iterable[Variant],
    protocol: Protocol,
    spec: Spec,
    sizes: tuple[int, int],
    machine: Machine,
) -> list[Training]:
    """The first trainings of a candidate whose adversarial images others are trained on: one for each way to train it.

    Args:
        candidate: of which every seed is needed.
        first: the first group that needs it, whose engine computes it where that can.
        variants: of members that need it, which differ in nothing that is planned by.
        protocol, spec: of these variants.
        sizes: training and test images.
        machine: that computes it.
    """
    like = _for_candidate(candidate, first, spec, machine.kind)
    by_first: dict[Variant, list[Variant]] = {}
    for variant in variants:
        by_first.setdefault(trained_as(Member(candidate, 0, variant)).variant, []).append(variant)
    trainings = []
    for own, theirs in by_first.items():
        members = [Member(candidate, seed, own) for seed in protocol.seeds]
        group = training_group(members, like, protocol, spec, *sizes, machine)
        images = _step_images(group.engine, protocol, machine.kind)
        trainings.append(Training(group, tuple(theirs), source=True, step_images=images))
    return trainings


def _for_candidate(candidate: Candidate, group: Group, spec: Spec, kind: str) -> Group:
    """A group whose engine can compute a source: that of the others may take other layers alone, or modules alone."""
    engine = group.engine
    if ENGINES.get(engine).refusal(spec, [candidate], kind):
        engine = "modules" if candidate.complete else "loop"
    known = ENGINES.get(engine).precisions
    return dataclasses.replace(group, engine=engine, precision=group.precision if group.precision in known else "fp32")


def united(trainings: Iterable[Training]) -> tuple[Training, ...]:
    """Each training once, for all that need it."""
    found: dict[str, Training] = {}
    for training in trainings:
        before = found.setdefault(training.key, training)
        if before is not training:
            variants = dict.fromkeys([*before.variants, *training.variants])
            found[training.key] = dataclasses.replace(before, variants=tuple(variants))
    return tuple(found.values())


def needed_by(group: Group, trainings: Sequence[Training]) -> tuple[Training, ...]:
    """Those that a group needs."""
    return tuple(training for training in trainings if training.serves(group))


class Planned(NamedTuple):
    """A group as it was planned, with the protocol of its members and what their networks share."""

    group: Group
    protocol: Protocol
    spec: Spec


def shared_trainings(
    planned: Sequence[Planned], sizes: tuple[int, int], machine: Machine
) -> tuple[list[Planned], list[Training]]:
    """The first trainings that groups have in common: of the same networks, trained in the same company.

    Args:
        planned: all groups, each with a first training of its own.
        sizes: training and test images.
        machine: that computes them.

    Returns:
        The groups, of which some begin with what another training did, and these trainings.
    """
    alike: dict[Hashable, list[int]] = {}
    for place, each in enumerate(planned):
        if each.protocol.trains and each.protocol.epochs and not selects_in(each.protocol, "train"):
            alike.setdefault(_training_of(each, machine.kind), []).append(place)
    found, trainings = list(planned), []
    for places in alike.values():
        own = [planned[place] for place in places]
        members = _members(own[0].group)
        if sum(len(each.group.members) for each in own) == len(members):
            continue  # nobody to share it with
        for place in places:
            found[place] = _begun(planned[place], sizes[0])
        group = training_group(members, own[0].group, own[0].protocol, own[0].spec, *sizes, machine)
        variants = dict.fromkeys(member.variant for each in own for member in each.group.members)
        alone = sum(each.group.flops for each in own) - sum(found[place].group.flops for place in places)
        images = _step_images(group.engine, own[0].protocol, machine.kind)
        saved = alone - group.flops
        trainings.append(Training(group, tuple(variants), source=False, saved_flops=saved, step_images=images))
    return found, trainings


def _members(group: Group) -> tuple[Member, ...]:
    """Its members as their first training knows them, each once."""
    return tuple(dict.fromkeys(map(trained_as, group.members)))


def _training_of(planned: Planned, kind: str) -> Hashable:
    """All that the figures of a group's first training depend on, to the last bit."""
    group, protocol = planned.group, planned.protocol
    measured = group.evaluation_batch if protocol.evaluate_every else 0
    images = _step_images(group.engine, protocol, kind)
    return group.engine, group.precision, measured, images, _members(group)


def _step_images(engine: str, protocol: Protocol, kind: str) -> int:
    """Most images of an optimizer step, where the order of the kernels' sums may depend on it; 0 elsewhere."""
    return protocol.step_images if kind == "cuda" and ENGINES.get(engine).any_depths else 0


def _begun(planned: Planned, train_size: int) -> Planned:
    """A group that another training begins, with what it costs then."""
    group, protocol, spec = planned
    each = {member.candidate: 0 for member in group.members}
    each = {candidate: training_flops(Network(spec, candidate)) for candidate in each}
    first = first_samples(protocol, train_size) * sum(each[member.candidate] for member in group.members)
    return planned._replace(group=dataclasses.replace(group, begun=True, flops=group.flops - first))


def cut_trainings(
    trainings: Iterable[Training],
    machines: int,
    protocol: Protocol,
    spec: Spec,
    sizes: tuple[int, int],
    machine: Machine,
) -> tuple[Training, ...]:
    """Trainings of which those that groups begin with are divided, so that several machines share the work evenly.

    Args:
        trainings: of the plan for one machine.
        machines: how many will compute them.
        protocol, spec: of the run.
        sizes: training and test images.
        machine: one of them.
    """
    every = list(trainings)
    whole = sum(training.group.flops for training in every if not training.source)
    made: list[Training] = []
    for training in every:
        members, flops = training.group.members, training.group.flops
        wanted = -(-PIECES * machines * flops // whole) if whole and machines > 1 else 1
        count = 1 if training.source else max(1, min(len(members), wanted))
        if count == 1:
            made.append(training)
            continue
        own = protocol.of(training.variants[0])
        shape = spec_of(own, spec)
        for part in range(count):
            some = members[part * len(members) // count : (part + 1) * len(members) // count]
            group = training_group(some, training.group, own, shape, *sizes, machine)
            made.append(_share_of(training, group, group.flops / flops))
    return tuple(made)


def _share_of(training: Training, group: Group, share: float) -> Training:
    """Some members of a training as one of their own, with their share of what that takes and saves."""
    predicted: dict[str, Any] = {name: getattr(training.group, name) for name in SECONDS}
    seconds = {name: value and value * share for name, value in predicted.items()}
    saved = round(training.saved_flops * share)
    return dataclasses.replace(training, group=dataclasses.replace(group, **seconds), saved_flops=saved)
