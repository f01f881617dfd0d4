"""The first trainings of a defence's sources, as the plan has them."""

from __future__ import annotations

from collections.abc import Sequence

from atras.engines import ENGINES
from atras.experiment import Protocol
from atras.networks import Spec, Variant
from atras.planning import Group, Machine, Training, predict_training, source_trainings

from .defence_source import source_candidates
from .speeds import Speeds


def sources_of(
    first: Group,
    protocol: Protocol,
    spec: Spec,
    variants: Sequence[Variant],
    sizes: tuple[int, int],
    machine: Machine,
    speeds: Speeds,
) -> list[Training]:
    """The first trainings that members need whose defence learns from others, with their predicted seconds.

    Args:
        first: the first group of these members, whose engine computes them where it can.
        protocol, spec: of the members.
        variants: theirs, which share groups.
        sizes: training and test images.
        machine: that computes them.
        speeds: of it.
    """
    resolved = protocol.replace(precision=first.precision)
    trainings = [
        training
        for candidate in source_candidates(protocol, spec)
        for training in source_trainings(candidate, first, variants, resolved, spec, sizes, machine)
    ]
    return [priced(training, resolved, spec, sizes, speeds) for training in trainings]


def priced(training: Training, protocol: Protocol, spec: Spec, sizes: tuple[int, int], speeds: Speeds) -> Training:
    """A first training with its predicted seconds."""
    group = training.group
    own = protocol.replace(precision=group.precision)
    speed = speeds.of(ENGINES.get(group.engine), spec, own, group.members[0].candidate)
    return predict_training(training, spec, own, sizes[0], speed)
