"""First trainings as work of their own, before the groups that need them: those of a defence's sources.

They are a pure function of protocol and groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from atras.engines import ENGINES
from atras.experiment import Protocol, trained_as
from atras.networks import Candidate, Member, Spec, Variant

from .grouping import training_group
from .machine import Machine
from .plan import Group, Training


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
        trainings.append(Training(group, tuple(theirs), source=True))
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
