"""Shards: one run computed by several processes that know nothing of each other, each in a folder of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from atras.errors import InputError, shown
from atras.experiment import Execution, Protocol, parse_shard
from atras.networks import Member
from atras.planning import Group, Machine, Plan, cut_trainings, deal, spread, work_of
from atras.rounding import counted

from .plans import machine_for
from .prepare import Prepared

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
        members = sorted(member.to_list() for member in self.members)
        return {"number": self.number, "of": self.of, "members": members}

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
            members = frozenset(map(Member.from_list, values["members"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"shard (={shown(values)}): expected the record of a shard ({error}); restore it"
            ) from None
        return cls(number, of, members)


def take_shard(prepared: Prepared, protocol: Protocol, execution: Execution) -> tuple[Prepared, Shard]:
    """A shard of a prepared run, and the whole plan with groups enough for all shards.

    Which members are whose depends on protocol, plan and number of shards alone.

    Args:
        prepared: the run.
        protocol: its protocol.
        execution: with a shard, such as `3/16`.
    """
    number, of = parse_shard(execution.shard or "1/1")
    prepared = for_machines(prepared, protocol, execution, of)
    own = shares(prepared, protocol, execution, of)[number - 1]
    return prepared, Shard(number, of, frozenset(member for group in own for member in group.members))


def for_machines(prepared: Prepared, protocol: Protocol, execution: Execution, machines: int) -> Prepared:
    """A prepared run with groups enough for so many machines like this one, which take them as they come.

    Args:
        prepared: the run, as planned for one; with one it stays as it is.
        protocol, execution: its own.
        machines: or processes, or GPUs.
    """
    return spread_over(prepared, protocol, _machine(prepared, execution), machines)


def spread_over(prepared: Prepared, protocol: Protocol, machine: Machine, machines: int) -> Prepared:
    """As `for_machines`, for machines of any kind."""
    if prepared.plan.machines == machines:  # as recorded by another shard: dividing anew might not give the same
        return prepared
    sizes = (len(prepared.data.train), len(prepared.data.test))
    plan, spec = prepared.plan, prepared.spec
    groups = spread(plan.groups, machines, protocol, spec, *sizes, machine)
    trainings = cut_trainings(plan.trainings, machines, protocol, spec, sizes, machine)
    return prepared._replace(plan=dataclasses.replace(plan, groups=groups, trainings=trainings, machines=machines))


def shares(prepared: Prepared, protocol: Protocol, execution: Execution, count: int) -> list[list[Group]]:
    """The groups of a plan dealt to so many hands, as evenly as counted work can tell."""
    sizes = (len(prepared.data.train), len(prepared.data.test))
    groups, machine = prepared.plan.groups, _machine(prepared, execution)
    work = [work_of(group, protocol, prepared.spec, *sizes, machine) for group in groups]
    return [[groups[number] for number in sorted(hand)] for hand in deal(work, count)]


def _machine(prepared: Prepared, execution: Execution) -> Machine:
    """This machine, with what division depends on as the plan has it: all shards must come to the same."""
    here, plan = machine_for(execution, prepared.device, prepared.data), prepared.plan
    return dataclasses.replace(here, kind=plan.device.partition(":")[0], threads=plan.threads or here.threads)


def tells(plan: Plan, shard: Shard) -> str:
    """What a shard has of a plan, in a line."""
    own = [group for group in plan.groups if shard.has(group)]
    total = sum(group.flops for group in plan.groups)
    share = sum(group.flops for group in own) / total if total else 0.0
    return (
        f"shard {shard.number} of {shard.of}: {len(own)} of {counted(len(plan.groups), 'group')}, "
        f"{counted(len(shard.members), 'member')}, {share:.0%} of the work"
    )
