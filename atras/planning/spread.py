"""Groups for several machines, so many and so even that none of them waits long for the last one.

A pure function of the protocol, the plan, the kind of machine and their number: what is weighed is counted, not timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from atras.engines import ENGINES
from atras.experiment import Protocol
from atras.networks import Candidate, Network, Spec, Variant
from atras.training import first_steps, steps_of

from .cost import evaluation_passes, forward_flops, training_flops
from .grouping import STEP_COST, cut
from .machine import Machine
from .plan import Group
from .schedule import Schedule, schedule
from .shape import spec_of

TAIL = 0.1
"""Most of the makespan that a machine may wait for the last one, where members allow it."""

GROUPS_A_MACHINE = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Groups for each machine that are tried, the fewest first. Counted work is not time: with one each, a machine that is
slower than the others would be waited for as a whole."""

SLACK = 1.2
"""Most work of a group, for what it should have: one more group might be one more than all machines take at once."""

ROUNDING = 1e-9

LAUNCHES_WORTH = 1.25
"""Makespans with several groups for each machine, for one with a group each, from which on the latter is taken."""

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
        own = protocol.of(group.variant)
        made += [group] if whole else cut(group, parts, own, spec_of(own, spec), train_size, test_size, machine)
    return tuple(made)


def work_of(group: Group, protocol: Protocol, spec: Spec, train_size: int, test_size: int, machine: Machine) -> float:
    """Counted work of a group: FLOPs of training, evaluation and attacks, and those that launches are worth."""
    counted = _Counted.of(group, protocol, spec, train_size, test_size, machine)
    return counted.work(counted.whole)


class _Counted(NamedTuple):
    """A group as it is divided.

    Args:
        sums: work of its first 0, 1, 2, ... members, with their launches where they are computed one by one.
        launches: FLOPs that a group costs besides.
        threads: that take whole members; 1 where all work on each.
    """

    sums: list[float]
    launches: float
    threads: int

    @classmethod
    def of(
        cls, group: Group, protocol: Protocol, spec: Spec, train_size: int, test_size: int, machine: Machine
    ) -> _Counted:
        engine = ENGINES.get(group.engine)
        resolved = _resolved(protocol, group.variant, group.precision)
        spec = spec_of(resolved, spec)
        passes = evaluation_passes(resolved, spec.classes, train_size, test_size)
        samples = 0 if group.begun else resolved.epochs * train_size
        samples += resolved.adversarial_epochs * resolved.defence.epoch_images(train_size)
        shared = engine.any_depths and machine.kind == "cpu"
        steps = steps_of(resolved, train_size) - (first_steps(resolved, train_size) if group.begun else 0)
        launches = (FUSED_STEP_COST if shared else STEP_COST[machine.kind]) * steps
        each: dict[object, float] = {}
        sums = [0.0]
        for member in group.members:
            if member.candidate not in each:
                training, forward = _flops(spec, member.candidate)
                work: float = training * samples * resolved.trains
                work += forward * (passes.forward + 2 * passes.gradient)
                each[member.candidate] = work / (1 - group.padding_share) + engine.one_by_one * launches
            sums.append(sums[-1] + each[member.candidate])
        return cls(sums, 0.0 if engine.one_by_one else launches, machine.threads if shared else 1)

    @property
    def whole(self) -> range:
        """All members."""
        return range(len(self.sums) - 1)

    def own(self, part: range) -> float:
        """Work of neighbouring members as one group, without its launches."""
        work, count = self.sums[part.stop] - self.sums[part.start], len(part)
        if count < 2:  # threads take whole members, but share one that is alone
            return work
        return work * self.threads * -(-count // self.threads) / count

    def work(self, part: range) -> float:
        """Work of neighbouring members as one group."""
        return self.own(part) + self.launches

    def parts(self, most: float) -> list[range]:
        """The members in parts of about so much work without launches, or of one, and as even as may be."""
        count = len(self.whole)
        wanted = min(count, math.ceil(self.own(self.whole) / most - ROUNDING)) if most else count
        starts = [0]
        for member in range(1, count):
            # A member belongs to the part that its middle lies in.
            middle = (self.sums[member] + self.sums[member + 1]) / 2
            full = self.own(range(starts[-1], member + 1)) > SLACK * most
            if full or wanted * middle >= len(starts) * self.sums[-1]:
                starts.append(member)
        return [range(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]


@lru_cache(maxsize=64)
def _resolved(protocol: Protocol, variant: Variant, precision: str) -> Protocol:
    """The protocol of a group: to check ten thousand candidates anew for each of as many groups takes minutes."""
    return protocol.of(variant).replace(precision=precision)


@lru_cache(maxsize=2**16)
def _flops(spec: Spec, candidate: Candidate) -> tuple[int, int]:
    """Of one image's training step and forward pass; shapes of many networks take a while to find."""
    network = Network(spec, candidate)
    return training_flops(network), forward_flops(network)


def _divisions(counted: Sequence[_Counted], machines: int) -> list[list[range]]:
    """How each group is divided: by the fewest groups a machine that keep the tail, or else have the least makespan.

    One group for each machine is taken only where more would take much longer, by their launches.
    """
    total = sum(each.own(each.whole) for each in counted)
    found: list[tuple[Schedule, list[list[range]]]] = []
    for pieces in (1, *GROUPS_A_MACHINE):
        parts = [each.parts(total / (machines * pieces)) for each in counted]
        works = [each.work(part) for each, own in zip(counted, parts, strict=True) for part in own]
        found.append((schedule(works, machines), parts))
        if pieces > 1 and found[-1][0].tail <= TAIL:
            break
    fewest, *more = found
    best = more[-1] if more[-1][0].tail <= TAIL else min(more, key=lambda one: one[0].makespan)
    much_longer = best[0].makespan > LAUNCHES_WORTH * fewest[0].makespan
    return (fewest if much_longer and fewest[0].tail <= TAIL else best)[1]
