"""Shards: one run computed by several processes that know nothing of each other, each in a folder of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from atras.errors import InputError, shown
from atras.experiment import Protocol, parse_shard
from atras.networks import Candidate, Member
from atras.planning import Group, Plan, halves

from .prepare import Prepared

GROUPS_OF_A_SHARD = 2
"""Groups that a shard has, where groups can be divided: of two that differ in work the sum is more even."""

DONE = "part"
"""Status of a shard's run that is done: the other shards are not in it."""


class Shard(NamedTuple):
    """One of the parts of a run.

    Args:
        number: from 1.
        of: how many there are.
        members: its own.
    """

    number: int
    of: int
    members: frozenset[Member]

    def has(self, group: Group) -> bool:
        """Whether a group is its own."""
        return self.members.issuperset(group.members)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for `run.json`."""
        members = sorted((member.candidate.name, member.seed) for member in self.members)
        return {"number": self.number, "of": self.of, "members": [list(member) for member in members]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Shard | None:
        """The shard that a run recorded; None for a whole run.

        Raises:
            InputError: if it is no shard.
        """
        if values is None:
            return None
        try:
            number, of = int(values["number"]), int(values["of"])
            members = frozenset(Member(Candidate.parse(str(name)), int(seed)) for name, seed in values["members"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"shard (={shown(values)}): expected the record of a shard ({error}); restore it"
            ) from None
        return cls(number, of, members)


def take_shard(prepared: Prepared, protocol: Protocol, text: str) -> tuple[Prepared, Shard]:
    """A shard of a prepared run, and the whole plan with groups enough for all shards.

    Which members are whose depends on protocol, plan and number of shards alone.

    Args:
        prepared: the run.
        protocol: its protocol.
        text: such as `3/16`.
    """
    number, of = parse_shard(text)
    sizes = (len(prepared.data.train), len(prepared.data.test))
    groups = divided(prepared.plan.groups, GROUPS_OF_A_SHARD * of, protocol, prepared, *sizes)
    plan = dataclasses.replace(prepared.plan, groups=groups)
    own = shares(groups, of)[number - 1]
    return prepared._replace(plan=plan), Shard(number, of, frozenset(m for group in own for m in group.members))


def for_slots(prepared: Prepared, protocol: Protocol, slots: int) -> Prepared:
    """A prepared run with groups enough for so many workers at once; as it is for one.

    Args:
        prepared: the run.
        protocol: its protocol.
        slots: how many groups are computed at once.
    """
    if slots == 1:
        return prepared
    sizes = (len(prepared.data.train), len(prepared.data.test))
    groups = divided(prepared.plan.groups, GROUPS_OF_A_SHARD * slots, protocol, prepared, *sizes)
    return prepared._replace(plan=dataclasses.replace(prepared.plan, groups=groups))


def divided(
    groups: tuple[Group, ...], least: int, protocol: Protocol, prepared: Prepared, train_size: int, test_size: int
) -> tuple[Group, ...]:
    """The groups, the largest of them halved until there are enough, or none has two members."""
    kept = list(groups)
    while len(kept) < least:
        at = max(range(len(kept)), key=lambda index: (len(kept[index].members) > 1, kept[index].flops, -index))
        group = kept[at]
        if len(group.members) == 1:
            break
        resolved = protocol.replace(precision=group.precision)
        parts = halves(group, resolved, prepared.spec, train_size, test_size, prepared.device.type)
        # The evaluation's batch is smaller for want of memory alone, and there is none here.
        kept[at : at + 1] = [dataclasses.replace(part, evaluation_batch=group.evaluation_batch) for part in parts]
    return tuple(kept)


def shares(groups: tuple[Group, ...], count: int) -> list[list[Group]]:
    """The groups dealt to so many hands: the largest first, each to the one with least work so far."""
    hands: list[list[Group]] = [[] for _ in range(count)]
    work = [0] * count
    for group in sorted(groups, key=lambda each: -each.flops):
        least = work.index(min(work))
        hands[least].append(group)
        work[least] += group.flops
    return hands


def tells(plan: Plan, shard: Shard) -> str:
    """What a shard has of a plan, in a line."""
    own = [group for group in plan.groups if shard.has(group)]
    total = sum(group.flops for group in plan.groups)
    share = sum(group.flops for group in own) / total if total else 0.0
    return (
        f"shard {shard.number} of {shard.of}: {len(own)} of {len(plan.groups)} groups, {len(shard.members)} members, "
        f"{share:.0%} of the work"
    )
