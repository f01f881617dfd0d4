"""Members divided for what comes beside the groups: the transfer, and the source of the defence. Within the cap too."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from atras.engines import DTYPES, ENGINES
from atras.experiment import Protocol
from atras.networks import Member, Spec

from .grouping import group_of
from .machine import Machine
from .plan import Group

LEAST_BATCH = 16
"""Least images of a forward pass, below which an evaluation batch is not halved."""


def transfer_parts(groups: Sequence[Group], protocol: Protocol, spec: Spec, machine: Machine) -> tuple[Group, ...]:
    """The members of a plan as they are computed in the transfer: as in their groups, or in halves under a lower cap.

    Bytes are those of networks that are attacked and evaluated, without the signs of training.
    """
    parts = []
    for group in groups:
        for members in parts_of(group):
            parts += _within(members, group, protocol, spec, machine, 0)
    return tuple(parts)


def part_of(
    part: Group, members: Sequence[Member], protocol: Protocol, spec: Spec, machine: Machine, uses: int = 1
) -> Group:
    """Some members of a part, as they are attacked without the others.

    Args:
        part: of a transfer.
        members: some of its own.
        uses: how many batches each of them takes at once.
    """
    return _part(members, part, uses * part.evaluation_batch, protocol, spec, machine, 0)


def transfer_bytes(parts: Sequence[Group], protocol: Protocol, spec: Spec, cap: int) -> int:
    """Most bytes that a transfer takes: of all parts at once with a batch's images, or as many as the cap allows.

    Surrogates come beside the parts, each network of an ensemble with others of its part.
    """
    images = max(batch_bytes(part, protocol, spec) for part in parts)
    largest = max(part.predicted_bytes for part in parts)
    stands = max((len(attack.made_on.stands) for attack in protocol.surrogate_attacks if attack.made_on), default=0)
    beside = stands * (largest + images)
    return min(sum(part.predicted_bytes for part in parts) + images + beside, max(cap, largest + images + beside))


def batch_bytes(part: Group, protocol: Protocol, spec: Spec) -> int:
    """Bytes of the adversarial images that a part makes at once."""
    itemsize = DTYPES[protocol.precision].itemsize
    return len(part.members) * part.evaluation_batch * math.prod(spec.image_shape) * itemsize


def source_parts(
    members: Sequence[Member], group: Group, protocol: Protocol, spec: Spec, machine: Machine, images: int
) -> tuple[Group, ...]:
    """The members whose adversarial training images all others learn from, as they are computed.

    Args:
        members: of one candidate.
        group: whose engine and evaluation batch they take.
        images: of the training part.
    """
    parts = [[member] for member in members] if ENGINES.get(group.engine).one_by_one else [list(members)]
    return tuple(part for one in parts for part in _within(one, group, protocol, spec, machine, images))


def tighter(parts: Sequence[Group], protocol: Protocol, spec: Spec, machine: Machine) -> tuple[Group, ...] | None:
    """Each part in halves, with half the images at once, where memory did not suffice; None where nothing is left."""
    found: list[Group] = []
    for part in parts:
        batch = max(LEAST_BATCH, part.evaluation_batch // 2)
        middle = len(part.members) // 2
        halves = (part.members[:middle], part.members[middle:]) if middle else (part.members,)
        found += [_part(members, part, batch, protocol, spec, machine, 0) for members in halves]
    same = len(found) == len(parts) and all(
        new.evaluation_batch >= old.evaluation_batch for new, old in zip(found, parts, strict=True)
    )
    return None if same else tuple(found)


def parts_of(group: Group) -> list[list[Member]]:
    """The members that one engine object takes."""
    one_by_one = ENGINES.get(group.engine).one_by_one
    return [[member] for member in group.members] if one_by_one else [list(group.members)]


def _within(
    members: Sequence[Member], group: Group, protocol: Protocol, spec: Spec, machine: Machine, images: int
) -> list[Group]:
    """Members as one part, or in halves until each fits the cap with the images that it makes."""
    part = _part(members, group, group.evaluation_batch, protocol, spec, machine, images)
    need = part.predicted_bytes + batch_bytes(part, protocol, spec)
    if need <= machine.memory_bytes or len(members) == 1:
        return [part]
    middle = len(members) // 2
    halves = (members[:middle], members[middle:])
    return [part for half in halves for part in _within(half, group, protocol, spec, machine, images)]


def _part(
    members: Sequence[Member], group: Group, batch: int, protocol: Protocol, spec: Spec, machine: Machine, images: int
) -> Group:
    made = group_of(members, protocol, spec, group.engine, machine, images, batch)
    return dataclasses.replace(made, evaluation_batch=batch)
