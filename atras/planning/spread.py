"""Groups for several machines, so many and so even that none of them waits long for the last one.

A pure function of the protocol, the plan, the kind of machine and their number: what is weighed is counted, not timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from atras.engines import ENGINES
from atras.experiment import Protocol
from atras.networks import Network, Spec
from atras.training import steps_of

from .cost import evaluation_passes, forward_flops, training_flops
from .grouping import STEP_COST, cut
from .machine import Machine
from .plan import Group
from .schedule import Schedule, schedule

TAIL = 0.1
"""Most of the makespan that a machine may wait for the last one, where members allow it."""

GROUPS_A_MACHINE = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Groups for each machine that are tried, the fewest first. Counted work is not time: with one each, a machine that is
slower than the others would be waited for as a whole."""

FUSED_STEP_COST = 1e7
"""As `STEP_COST`, of engine fused on a CPU, which is entered once a chunk of steps and not once an operation."""

Work = Callable[[Group], float]


def spread(
    groups: Sequence[Group],
    machines: int,
    protocol: Protocol,
    spec: Spec,
    train_size: int,
    test_size: int,
    machine: Machine,
) -> tuple[Group, ...]:
    """The groups of a plan, the largest of them divided until the tail is at most `TAIL`, or as short as it gets.

    Args:
        groups: of the plan for one machine; with one, they stay as they are.
        machines: how many will compute them.
        protocol, spec: of the run.
        train_size, test_size: images.
        machine: one of them.

    Returns:
        Groups of the same members, in the order of the plan; each division is of neighbours, and as even as members
        allow. The evaluation batch stays: it is smaller for want of memory alone.
    """
    if machines < 2 or not groups:
        return tuple(groups)
    counted = [_Counted.of(group, protocol, spec, train_size, test_size, machine) for group in groups]
    chosen = _divisions(counted, machines)
    made: list[Group] = []
    for group, parts in zip(groups, chosen, strict=True):
        whole = len(parts) == 1
        made += [group] if whole else cut(group, parts, protocol, spec, train_size, test_size, machine)
    return tuple(made)


def work_of(group: Group, protocol: Protocol, spec: Spec, train_size: int, test_size: int, machine: Machine) -> float:
    """Counted work of a group: FLOPs of training, evaluation and attacks, and those that launches are worth."""
    counted = _Counted.of(group, protocol, spec, train_size, test_size, machine)
    return counted.work(range(len(group.members)))


class _Counted(NamedTuple):
    """A group as it is divided.

    Args:
        sums: work of its first 0, 1, 2, ... members.
        launches: FLOPs that a group costs besides, or each member where they are computed one by one.
        one_by_one: whether they are.
        threads: that take whole members; 1 where all work on each.
    """

    sums: list[float]
    launches: float
    one_by_one: bool
    threads: int

    @classmethod
    def of(
        cls, group: Group, protocol: Protocol, spec: Spec, train_size: int, test_size: int, machine: Machine
    ) -> _Counted:
        engine = ENGINES.get(group.engine)
        resolved = protocol.replace(precision=group.precision)
        passes = evaluation_passes(resolved, spec.classes, train_size, test_size)
        samples = resolved.epochs * train_size
        samples += resolved.adversarial_epochs * resolved.defence.epoch_images(train_size)
        each: dict[object, float] = {}
        sums = [0.0]
        for member in group.members:
            if member.candidate not in each:
                network = Network(spec, member.candidate)
                work: float = training_flops(network) * samples * resolved.trains
                work += forward_flops(network) * (passes.forward + 2 * passes.gradient)
                each[member.candidate] = work / (1 - group.padding_share)
            sums.append(sums[-1] + each[member.candidate])
        shared = engine.any_depths and machine.kind == "cpu"
        launch = FUSED_STEP_COST if shared else STEP_COST[machine.kind]
        launches = launch * steps_of(resolved, train_size)
        return cls(sums, launches, engine.one_by_one, machine.threads if shared else 1)

    def work(self, part: range) -> float:
        """Of neighbouring members as one group."""
        own = self.sums[part.stop] - self.sums[part.start]
        count = len(part)
        if count > 1:  # threads take whole members, but share one that is alone
            own *= self.threads * -(-count // self.threads) / count
        return own + self.launches * (count if self.one_by_one else 1)

    def parts(self, most: float) -> list[range]:
        """The members in parts of at most so much work, or of a member alone, and as even as may be."""
        count = len(self.sums) - 1
        wanted = min(count, math.ceil(self.work(range(count)) / most)) if most else count
        starts = [0]
        for member in range(1, count):
            # A member belongs to the part that its middle lies in.
            middle = (self.sums[member] + self.sums[member + 1]) / 2
            full = self.work(range(starts[-1], member + 1)) > most
            if full or wanted * middle >= len(starts) * self.sums[-1]:
                starts.append(member)
        return [range(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]


def _divisions(counted: Sequence[_Counted], machines: int) -> list[list[range]]:
    """How each group is divided: by the fewest groups a machine that keep the tail, or else have the least makespan."""
    total = sum(each.work(range(len(each.sums) - 1)) for each in counted)
    found: list[tuple[Schedule, list[list[range]]]] = []
    for pieces in GROUPS_A_MACHINE:
        parts = [each.parts(total / (machines * pieces)) for each in counted]
        works = [each.work(part) for each, own in zip(counted, parts, strict=True) for part in own]
        times = schedule(works, machines)
        if times.tail <= TAIL:
            return parts
        found.append((times, parts))
    return min(found, key=lambda one: one[0].makespan)[1]
