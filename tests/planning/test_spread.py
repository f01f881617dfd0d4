"""Groups for several machines: none lost, none waits long, and one machine's plan is left alone."""

from __future__ import annotations

import random

import pytest

from atras.experiment import Protocol
from atras.networks import Candidate, Spec
from atras.planning import TAIL, Group, Machine, deal, make_groups, schedule, spread, work_of

DIGITS = Spec((1, 8, 8), 10)
SIZES = (898, 899)


def drawing(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311


def population(draw: random.Random, candidates: int) -> Protocol:
    """Candidates of one to four layers, a few units or many."""
    names = {"-".join(str(draw.choice((8, 16, 40, 100, 256))) for _ in range(draw.randint(1, 4))) for _ in range(400)}
    chosen = tuple(map(Candidate.parse, sorted(names)[:candidates]))
    seeds = tuple(range(draw.randint(1, 5)))
    return Protocol(candidates=chosen, seeds=seeds, precision="fp32", epochs=draw.choice((1, 20)))


def plan(protocol: Protocol, engine: str, machine: Machine) -> tuple[Group, ...]:
    return make_groups(protocol, DIGITS, *SIZES, engine, machine)


def divided(protocol: Protocol, engine: str, machine: Machine, machines: int) -> tuple[Group, ...]:
    return spread(plan(protocol, engine, machine), machines, protocol, DIGITS, *SIZES, machine)


@pytest.mark.parametrize("seed", range(12))
def test_tasks_are_dealt_once_and_within_the_bound_of_longest_first(seed: int) -> None:
    draw = drawing(seed)
    work = [draw.choice((0.0, draw.random(), 100 * draw.random())) for _ in range(draw.randint(1, 300))]
    machines = draw.randint(1, 40)
    hands = deal(work, machines)
    assert sorted(task for hand in hands for task in hand) == list(range(len(work)))
    times = schedule(work, machines)
    assert times.makespan == pytest.approx(max(sum(work[task] for task in hand) for hand in hands))
    # Graham (1969): at most 4/3 of the best, and the best is at least the mean and the longest.
    assert times.ideal <= times.makespan <= times.ideal + max(work)
    # No machine is idle while another still has a whole task to begin.
    assert times.makespan - times.first_idle <= max(work)
    assert 0 <= times.tail <= 1


@pytest.mark.parametrize("engine", ["loop", "stack", "fused"])
@pytest.mark.parametrize("machine", [Machine("cpu", 2**34, threads=2), Machine("cuda", 2**36)], ids=["cpu:2", "cuda"])
def test_one_machine_s_plan_stays_as_it_is(engine: str, machine: Machine) -> None:
    protocol = population(drawing(0), 30)
    assert divided(protocol, engine, machine, 1) == plan(protocol, engine, machine)


@pytest.mark.parametrize("seed", range(12))
def test_every_member_is_computed_once_in_groups_that_need_no_more_memory(seed: int) -> None:
    draw = drawing(seed)
    protocol, engine = population(draw, draw.randint(1, 60)), draw.choice(("loop", "stack", "fused"))
    machine = draw.choice((Machine("cpu", 2**34, threads=draw.choice((1, 2, 7))), Machine("cuda", 2**36)))
    machines, before = draw.choice((2, 3, 8, 64, 1000)), plan(protocol, engine, machine)
    groups = divided(protocol, engine, machine, machines)
    assert groups == divided(protocol, engine, machine, machines)
    assert [member for group in groups for member in group.members] == [m for group in before for m in group.members]
    assert max(group.predicted_bytes for group in groups) <= max(group.predicted_bytes for group in before)
    assert sum(group.flops for group in groups) == sum(group.flops for group in before)
    assert {group.evaluation_batch for group in groups} <= {group.evaluation_batch for group in before}


@pytest.mark.parametrize("engine", ["loop", "stack", "fused"])
@pytest.mark.parametrize("seed", range(6))
def test_the_last_group_is_waited_for_at_most_a_tenth_where_members_allow_it(engine: str, seed: int) -> None:
    draw = drawing(seed)
    protocol, machine = population(draw, 60), Machine("cpu", 2**34)
    total = sum(work_of(group, protocol, DIGITS, *SIZES, machine) for group in plan(protocol, engine, machine))
    alone = protocol.replace(candidates=(max(protocol.candidates, key=lambda c: sum(c.widths)),), seeds=(0,))
    largest = work_of(plan(alone, engine, machine)[0], alone, DIGITS, *SIZES, machine)
    # Members allow it where even the largest is short beside what a machine has to do.
    machines = max(2, int(total / largest * TAIL / 2))
    groups = divided(protocol, engine, machine, machines)
    work = [work_of(group, protocol, DIGITS, *SIZES, machine) for group in groups]
    assert schedule(work, machines).tail <= TAIL
    assert len(groups) <= 40 * machines + len(plan(protocol, engine, machine))


def test_more_machines_than_members_get_a_member_each() -> None:
    protocol, machine = population(drawing(1), 5), Machine("cpu", 2**34)

    groups = divided(protocol, "fused", machine, 100)
    assert {len(group.members) for group in groups} == {1}


def test_networks_that_nobody_trains_are_weighed_by_their_attacks() -> None:
    """Their training takes no FLOPs: dealt by these, one machine would get them all."""
    protocol = population(drawing(2), 40).replace(defence="none", epochs=1)
    machine = Machine("cpu", 2**34)
    group = plan(protocol, "fused", machine)[0]
    light = work_of(group, protocol, DIGITS, *SIZES, machine)
    heavy = work_of(group, protocol.replace(attacks=("pgd(steps=100)",)), DIGITS, *SIZES, machine)
    assert heavy > 5 * light
