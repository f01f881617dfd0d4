"""The plan: complete, pure, within its memory, and no more padded than launches are worth."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from atras.cost import padded, training_flops
from atras.errors import InputError
from atras.model import Spec
from atras.plan import Group, Machine, Plan, Speed, choose_engine, make_groups, members_of, predict, width_groups
from atras.protocol import Protocol
from atras.space import PAPER_CANDIDATES, Candidate, with_depth

DIGITS = Spec((1, 8, 8), 10)
MNIST = Spec((1, 28, 28), 10, "conv2")
CPU = Machine("cpu", 2**34)


def plan(protocol: Protocol, spec: Spec = DIGITS, engine: str = "stack", machine: Machine = CPU) -> tuple[Group, ...]:
    return make_groups(protocol, spec, 5000, 5000, engine, machine)


@pytest.mark.parametrize("engine", ["stack", "loop"])
@pytest.mark.parametrize("machine", [CPU, Machine("cuda", 2**36), Machine("cpu", 2**27)])
def test_every_member_is_planned_once_and_each_group_has_one_depth(engine: str, machine: Machine) -> None:
    protocol = Protocol(seeds=(0, 1, 2))
    groups = plan(protocol, engine=engine, machine=machine)
    members = [member for group in groups for member in group.members]
    assert sorted(members) == sorted(members_of(protocol))
    assert all(len({member.candidate.depth for member in group.members}) == 1 for group in groups)
    assert all(group.predicted_bytes <= machine.memory_bytes for group in groups)
    assert groups == plan(protocol, engine=engine, machine=machine)


def test_width_groups_cost_least_of_all_cuts() -> None:
    candidates = with_depth(PAPER_CANDIDATES, [3])

    def step(hidden: tuple[int, ...]) -> int:
        return training_flops(DIGITS, hidden)

    def cost(runs: list[list[Candidate]], launch: float) -> float:
        return sum(launch + len(run) * step(padded([c.hidden for c in run])) for run in runs)

    order = sorted(candidates, key=lambda c: (step(c.hidden), c.hidden))
    for launch in (1e3, 3e5, 1e6, 1e9):
        cuts = []
        for r in range(len(order)):
            for ends in itertools.combinations(range(1, len(order)), r):
                edges = [0, *ends, len(order)]
                cuts.append([order[a:b] for a, b in itertools.pairwise(edges)])
        best = min(cost(cut, launch) for cut in cuts)
        assert cost(width_groups(candidates, step, launch), launch) == pytest.approx(best)


def test_cheap_launches_cut_groups_and_dear_ones_join_them() -> None:
    candidates = with_depth(PAPER_CANDIDATES, [2])
    assert len(width_groups(candidates, lambda h: training_flops(DIGITS, h), 0.0)) == len(candidates)
    assert len(width_groups(candidates, lambda h: training_flops(DIGITS, h), 1e15)) == 1


def test_a_stem_common_to_all_makes_padding_cheap() -> None:
    assert len(plan(Protocol(), MNIST, machine=Machine("cuda", 2**37))) < len(plan(Protocol()))


def test_a_smaller_memory_makes_more_groups_and_an_impossible_one_is_refused() -> None:
    roomy, tight = plan(Protocol(), MNIST), plan(Protocol(), MNIST, machine=Machine("cpu", 2**28))
    assert len(tight) > len(roomy)
    with pytest.raises(InputError, match=r"memory \(=16 MiB\): expected room for one member, which needs"):
        plan(Protocol(), MNIST, machine=Machine("cpu", 2**24))


def test_auto_loops_only_over_convolutions_on_a_cpu() -> None:
    assert choose_engine("auto", MNIST, "cpu") == "loop"
    assert choose_engine("auto", MNIST, "cuda") == choose_engine("auto", DIGITS, "cpu") == "stack"
    assert choose_engine("stack", MNIST, "cpu") == "stack"


def test_counted_figures_of_a_group() -> None:
    protocol = Protocol(candidates=(Candidate((4,)), Candidate((8,))), epochs=2, adversarial_epochs=3)
    (group,) = plan(protocol)
    useful = training_flops(DIGITS, (4,)) + training_flops(DIGITS, (8,))
    assert group.flops == useful * (2 * 5000 + 3 * 10000)
    assert group.padding_share == pytest.approx(1 - useful / (2 * training_flops(DIGITS, (8,))))
    assert group.parameters == (64 * 4 + 4 + 4 * 10 + 10) + (64 * 8 + 8 + 8 * 10 + 10)


def test_predicted_seconds_follow_the_measured_speed() -> None:
    (group,) = plan(Protocol(candidates=(Candidate((8,)),), epochs=1, adversarial_epochs=1))
    protocol = Protocol(candidates=(Candidate((8,)),), epochs=1, adversarial_epochs=1)
    launches = predict(group, DIGITS, protocol, 5000, 5000, Speed(1.0, 1e30)).predicted_seconds
    # 40 + 79 steps, and 3 x 20 + 6 x 20 evaluation chunks of 250 images.
    assert launches == pytest.approx(119 + 180)
    compute = predict(group, DIGITS, protocol, 5000, 5000, Speed(0.0, 1e9)).predicted_seconds
    assert compute is not None
    assert compute > group.flops / 1e9


def test_a_plan_survives_json_and_refuses_another_protocol() -> None:
    protocol = Protocol(seeds=(3, 4))
    groups = tuple(replace(group, predicted_seconds=1.5) for group in plan(protocol))
    made = Plan("cpu", "stack", groups)
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict())), protocol) == made
    with pytest.raises(InputError, match="not the protocol's"):
        Plan.from_dict(made.to_dict(), Protocol())
    for broken in ({}, {"groups": 3}, made.to_dict() | {"groups": [{"members": [["x", 0]]}]}):
        with pytest.raises(InputError, match="expected one recorded by atras"):
            Plan.from_dict(broken, protocol)


def test_a_printed_plan_fits_80_columns() -> None:
    lines = Plan("cpu", "stack", plan(Protocol(seeds=tuple(range(100))))).lines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split()[:2] == ["all", "4000"]
