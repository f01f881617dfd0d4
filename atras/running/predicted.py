"""Predicted seconds of what a plan has, by the speeds of a machine."""

from __future__ import annotations

from collections.abc import Sequence

from atras.engines import ENGINES
from atras.planning import Group, Planned, Training, attack_parts, predict, predict_training

from .speeds import Speeds


def predicted_group(planned: Planned, sizes: tuple[int, int], speeds: Speeds) -> Group:
    """A group with its predicted seconds."""
    group, protocol, spec = planned
    engine = ENGINES.get(group.engine)
    parts = attack_parts(group, protocol)
    beside = {attack: speeds.beside(engine, spec, protocol, attack) for attack in parts}
    speed = speeds.of(engine, spec, protocol, group.members[0].candidate)
    return predict(group, spec, protocol, *sizes, speed, beside)


def predicted_training(
    training: Training, planned: Sequence[Planned], sizes: tuple[int, int], speeds: Speeds
) -> Training:
    """A first training with its predicted seconds.

    Args:
        training: of the plan.
        planned: all groups, of which some need it.
        sizes: training and test images.
        speeds: of the machine.
    """
    group, first = training.group, next(each for each in planned if training.serves(each.group))
    protocol = first.protocol.replace(precision=group.precision)
    speed = speeds.of(ENGINES.get(group.engine), first.spec, protocol, group.members[0].candidate)
    return predict_training(training, first.spec, protocol, sizes[0], speed)
