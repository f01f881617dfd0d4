"""Predicted seconds of a plan, from measured speed and counted FLOPs. They decide nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from atras.attacks import Attack, Passes
from atras.engines import ENGINES
from atras.evaluation import phases_of
from atras.experiment import Protocol
from atras.networks import Member, Network, Spec, Variant
from atras.training import first_steps, steps_of

from .cost import evaluation_parts, forward_flops, transfer_passes, transfer_sources
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
        spec, protocol: of the run; the protocol that of the group's first member.
        train_size, test_size: images.
        speed: of the group's engine.
        attack_speeds: of the parts of the stronger and transferred attacks of all its members (`attack_parts`).
    """
    engine, price = ENGINES.get(group.engine), _Price(group, spec, speed, attack_speeds, test_size)
    own = protocols_of(group, protocol)
    rounds = len(group.members) if engine.one_by_one else 1
    steps = steps_of(protocol, train_size) - (first_steps(protocol, train_size) if group.begun else 0)
    training = rounds * steps * speed.step_seconds
    training += group.flops / (1 - group.padding_share) / speed.flops_per_second
    one_pass = engine.one_pass and not any(network.drops for network in price.networks)
    parts = {
        variant: evaluation_parts(each, spec.classes, train_size, test_size, one_pass=one_pass)
        for variant, each in own.items()
    }
    attacks = price.passes({member: parts[member.variant][0] for member in group.members})
    at_epsilons: dict[float, list[Member]] = {}
    for member in group.members:
        at_epsilons.setdefault(own[member.variant].epsilon, []).append(member)
    for members in at_epsilons.values():  # attacked by themselves
        attacks += price.passes({member: parts[member.variant][1] for member in members})
        there = own[members[0].variant]
        everyone = dict.fromkeys(members, len(phases_of(there)))
        attacks += sum(price.beside(part, everyone) for part in _parts(there.stronger_attacks))
    transfer = sum(price.transfer(each, variant) for variant, each in own.items())
    return dataclasses.replace(
        group,
        predicted_seconds=training + attacks + transfer,
        predicted_attack_seconds=attacks,
        predicted_transfer_seconds=transfer,
    )


def protocols_of(group: Group, protocol: Protocol) -> dict[Variant, Protocol]:
    """The experiment on the members of each variant of a group, of which the first one's is given."""
    variants = dict.fromkeys(member.variant for member in group.members)
    return {variant: protocol if variant == group.variant else protocol.of(variant) for variant in variants}


def attack_parts(group: Group, protocol: Protocol) -> tuple[Attack, ...]:
    """The parts of all stronger and transferred attacks of a group's members, each once."""
    own = protocols_of(group, protocol).values()
    return tuple(_parts([attack for each in own for attack in (*each.stronger_attacks, *each.transferred_attacks)]))


def _parts(attacks: Iterable[Attack]) -> dict[Attack, None]:
    return dict.fromkeys(part for attack in attacks for part in attack.parts)


class _Price:
    """What passes and attacks of a group's members take; arguments as those of `predict`."""

    def __init__(
        self, group: Group, spec: Spec, speed: Speed, attack_speeds: Mapping[Attack, AttackSpeed], test_size: int
    ) -> None:
        self.group, self.classes, self.speed = group, spec.classes, speed
        self.attack_speeds, self.test_size = attack_speeds, test_size
        self.one_by_one = ENGINES.get(group.engine).one_by_one
        self.networks = [Network(spec, member.candidate) for member in group.members]
        self.forward = dict(zip(group.members, map(forward_flops, self.networks), strict=True))

    def passes(self, members: Mapping[Member, Passes]) -> float:
        """Of so many for each of these members, which make them together."""
        if not members:
            return 0.0
        each, speed = [one.forward + one.gradient for one in members.values()], self.speed
        calls = (sum(each) if self.one_by_one else max(each)) / self.group.evaluation_batch
        work = sum(
            self.forward[member]
            * (one.forward / speed.forward_flops_per_second + 2 * one.gradient / speed.gradient_flops_per_second)
            for member, one in members.items()
        )
        return calls * speed.step_seconds + work / (1 - self.group.padding_share)

    def beside(self, attack: Attack, times: Mapping[Member, int]) -> float:
        """What an attack takes beside its passes, which is made on members so many times."""
        own, counts = self.attack_speeds.get(attack), list(times.values())
        if own is None or not counts:
            return 0.0
        chunks = -(-self.test_size // self.group.evaluation_batch) * (sum(counts) if self.one_by_one else max(counts))
        pairs = sum(counts) * self.test_size
        return sum(attack.cost(self.classes)) * (chunks * own.step_seconds + pairs * own.pair_seconds)

    def transfer(self, protocol: Protocol, variant: Variant) -> float:
        """The share of its members in the transfer of a variant, whose protocol it is."""
        if not protocol.tries_other_networks:
            return 0.0
        there = [member for member in self.group.members if member.variant == variant]
        tried = transfer_passes(protocol, self.classes, self.test_size, variant)
        total = self.passes({member: tried.get(member, Passes()) for member in there})
        for attack, sources in transfer_sources(protocol, variant).items():
            made = {member: sources.get(member, 0) for member in there}
            total += sum(self.beside(part, made) for part in attack.parts)
        return total


def predict_training(training: Training, spec: Spec, protocol: Protocol, train_size: int, speed: Speed) -> Training:
    """A first training with its predicted seconds; to attack the training images of a source is part of it."""
    group = training.group
    rounds = len(group.members) if ENGINES.get(group.engine).one_by_one else 1
    steps = rounds * first_steps(protocol, train_size)
    seconds = steps * speed.step_seconds + group.flops / (1 - group.padding_share) / speed.flops_per_second
    if training.source:
        forward = sum(forward_flops(Network(spec, member.candidate)) for member in group.members)
        seconds += 3 * train_size * forward / speed.gradient_flops_per_second
    priced = dataclasses.replace(
        group, predicted_seconds=seconds, predicted_attack_seconds=0.0, predicted_transfer_seconds=0.0
    )
    return dataclasses.replace(training, group=priced)
