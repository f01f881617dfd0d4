"""Predicted seconds of a plan, from measured speed and counted FLOPs. They decide nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from atras.attacks import Attack, Passes
from atras.engines import ENGINES
from atras.evaluation import phases_of
from atras.experiment import Protocol
from atras.networks import Member, Network, Spec
from atras.training import steps_of

from .cost import evaluation_passes, forward_flops, transfer_passes, transfer_sources
from .plan import Group, Training


@dataclass(frozen=True)
class Speed:
    """Measured speed of an engine: seconds of a step = step_seconds + FLOPs / flops_per_second.

    Args:
        step_seconds: what a call takes besides.
        flops_per_second: of training.
        forward_flops_per_second, gradient_flops_per_second: of evaluation and of gradients of the images, on images of
            each member's own; neither is ever in bf16.
    """

    step_seconds: float
    flops_per_second: float
    forward_flops_per_second: float
    gradient_flops_per_second: float


class AttackSpeed(NamedTuple):
    """Seconds that an attack takes for each of its passes, beside the pass itself.

    Args:
        step_seconds: whatever the images.
        pair_seconds: for each (member, image) pair.
    """

    step_seconds: float
    pair_seconds: float


def predict(
    group: Group,
    spec: Spec,
    protocol: Protocol,
    train_size: int,
    test_size: int,
    speed: Speed,
    attack_speeds: Mapping[Attack, AttackSpeed] = MappingProxyType({}),
) -> Group:
    """The group with its predicted seconds: training, evaluation, attacks, and its share of the transfer.

    Attacks are priced as if every image were classified correctly and none fell before an attack's last step.

    Args:
        group: of the plan.
        spec, protocol: of the run.
        train_size, test_size: images.
        speed: of the group's engine.
        attack_speeds: of the parts of the protocol's stronger and transferred attacks.
    """
    one_by_one = ENGINES.get(group.engine).one_by_one
    rounds = len(group.members) if one_by_one else 1
    forward = [forward_flops(Network(spec, member.candidate)) for member in group.members]

    def seconds(passes: Sequence[Passes]) -> float:
        """Of so many for each member."""
        each = [one.forward + one.gradient for one in passes]
        calls = (sum(each) if one_by_one else max(each)) / group.evaluation_batch
        work = sum(
            flops * (one.forward / speed.forward_flops_per_second + 2 * one.gradient / speed.gradient_flops_per_second)
            for flops, one in zip(forward, passes, strict=True)
        )
        return calls * speed.step_seconds + work / (1 - group.padding_share)

    def beside(attack: Attack, times: Mapping[Member, int]) -> float:
        """What an attack takes beside its passes, which is made on members so many times."""
        own, counts = attack_speeds.get(attack), [times.get(member, 0) for member in group.members]
        if own is None:
            return 0.0
        chunks = -(-test_size // group.evaluation_batch) * (sum(counts) if one_by_one else max(counts))
        return sum(attack.cost(spec.classes)) * (chunks * own.step_seconds + sum(counts) * test_size * own.pair_seconds)

    training = rounds * steps_of(protocol, train_size) * speed.step_seconds
    training += group.flops / (1 - group.padding_share) / speed.flops_per_second
    own = evaluation_passes(protocol, spec.classes, train_size, test_size)
    attacks = seconds([own] * len(group.members))
    everyone = dict.fromkeys(group.members, len(phases_of(protocol)))
    for part in dict.fromkeys(part for attack in protocol.stronger_attacks for part in attack.parts):
        attacks += beside(part, everyone)
    transferred = transfer_passes(protocol, spec.classes, test_size)
    transfer = seconds([transferred.get(member, Passes()) for member in group.members])
    for attack, sources in transfer_sources(protocol).items():
        transfer += sum(beside(part, sources) for part in attack.parts)
    return dataclasses.replace(
        group,
        predicted_seconds=training + attacks + transfer,
        predicted_attack_seconds=attacks,
        predicted_transfer_seconds=transfer,
    )


def predict_training(training: Training, spec: Spec, protocol: Protocol, train_size: int, speed: Speed) -> Training:
    """A first training with its predicted seconds; to attack the training images of a source is part of it."""
    group = training.group
    rounds = len(group.members) if ENGINES.get(group.engine).one_by_one else 1
    steps = rounds * protocol.epochs * -(-train_size // protocol.batch_size)
    seconds = steps * speed.step_seconds + group.flops / (1 - group.padding_share) / speed.flops_per_second
    if training.source:
        forward = sum(forward_flops(Network(spec, member.candidate)) for member in group.members)
        seconds += 3 * train_size * forward / speed.gradient_flops_per_second
    priced = dataclasses.replace(
        group, predicted_seconds=seconds, predicted_attack_seconds=0.0, predicted_transfer_seconds=0.0
    )
    return dataclasses.replace(training, group=priced)
