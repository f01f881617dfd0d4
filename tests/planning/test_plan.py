"""The plan: complete, pure, within its memory, and no more padded than launches are worth."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from atras.engines import StackEngine
from atras.errors import InputError
from atras.experiment import Protocol
from atras.kernels.backends import Bf16
from atras.networks import PAPER_CANDIDATES, Candidate, Member, Network, Spec, members_of, widest, with_depth
from atras.planning import (
    AttackSpeed,
    Group,
    Machine,
    Plan,
    Speed,
    attack_parts,
    choose_engine,
    forward_flops,
    make_groups,
    precision_reason,
    predict,
    reason_for,
    training_flops,
)
from atras.planning.grouping import width_groups

DIGITS = Spec((1, 8, 8), 10)
MNIST = Spec((1, 28, 28), 10, "conv2")
CPU = Machine("cpu", 2**34)


def plan(protocol: Protocol, spec: Spec = DIGITS, engine: str = "stack", machine: Machine = CPU) -> tuple[Group, ...]:
    definite = protocol.replace(precision="fp32") if protocol.precision == "auto" else protocol
    return make_groups(definite, spec, 5000, 5000, engine, machine)


@pytest.mark.parametrize("engine", ["stack", "loop", "fused"])
@pytest.mark.parametrize("machine", [CPU, Machine("cuda", 2**36), Machine("cpu", 2**27)])
def test_every_member_is_planned_once_and_each_group_has_one_depth(engine: str, machine: Machine) -> None:
    protocol = Protocol(seeds=(0, 1, 2))
    groups = plan(protocol, engine=engine, machine=machine)
    members = [member for group in groups for member in group.members]
    assert sorted(members, key=str) == sorted(members_of(protocol.candidates, protocol.seeds), key=str)
    one_depth = [len({member.candidate.depth for member in group.members}) == 1 for group in groups]
    assert all(one_depth) or engine == "fused"
    assert all(group.predicted_bytes <= machine.memory_bytes for group in groups)
    assert groups == plan(protocol, engine=engine, machine=machine)


@pytest.mark.parametrize("engine", ["stack", "loop", "fused"])
def test_an_average_and_the_epoch_that_is_kept_take_memory(engine: str) -> None:
    protocol = Protocol(candidates=(Candidate((24, 192)),))
    (plain,), weights = plan(protocol, engine=engine), 4 * Network(DIGITS, Candidate((24, 192))).parameter_count
    (averaged,) = plan(protocol.replace(average=0.9), engine=engine)
    copies = 1 if engine == "fused" else 2  # beside the average, what an update takes in plain torch
    assert averaged.predicted_bytes == plain.predicted_bytes + copies * weights
    (selected,) = plan(protocol.replace(select="robust"), engine=engine)
    assert selected.predicted_bytes == plain.predicted_bytes + weights
    on_gpu = Machine("cuda", 2**36)  # the epoch that is kept is in the host's memory
    assert plan(protocol, engine=engine, machine=on_gpu)[0].predicted_bytes == (
        plan(protocol.replace(select="robust"), engine=engine, machine=on_gpu)[0].predicted_bytes
    )


@pytest.mark.parametrize("engine", ["stack", "loop", "fused"])
def test_no_group_is_over_the_cap_whichever_members_come_last(engine: str) -> None:
    protocol, machine = Protocol(seeds=(0, 1, 2, 3, 4)), Machine("cpu", 24 * 2**20, threads=2)
    groups = plan(protocol, engine=engine, machine=machine)
    assert max(group.predicted_bytes for group in groups) <= machine.memory_bytes


def test_width_groups_cost_least_of_all_cuts() -> None:
    candidates = with_depth(PAPER_CANDIDATES, [3])

    def step(candidate: Candidate) -> int:
        return training_flops(Network(DIGITS, candidate))

    def cost(runs: list[list[Candidate]], launch: float) -> float:
        return sum(launch + len(run) * step(widest(run)) for run in runs)

    order = sorted(candidates, key=lambda c: (step(c), c.widths))
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
    assert len(width_groups(candidates, lambda c: training_flops(Network(DIGITS, c)), 0.0)) == len(candidates)
    assert len(width_groups(candidates, lambda c: training_flops(Network(DIGITS, c)), 1e15)) == 1


def test_a_stem_common_to_all_makes_padding_cheap() -> None:
    assert len(plan(Protocol(), MNIST, machine=Machine("cuda", 2**37))) < len(plan(Protocol()))


@pytest.mark.parametrize(("dropout", "head", "groups"), [("", 0, 1), ("d0.25", 0, 2), ("", 64, 2)])
def test_filters_with_dropout_behind_them_are_not_padded(dropout: str, head: int, groups: int) -> None:
    names = [f"c3{dropout}-8", f"c4{dropout}-8", f"c3{dropout}-9"]
    made = plan(Protocol(candidates=tuple(map(Candidate.parse, names))), Spec((1, 8, 8), 10, head_rate256=head))
    assert len(made) == groups
    for group in made:
        StackEngine(Spec((1, 8, 8), 10, head_rate256=head), group.members, Protocol(), torch.device("cpu"))


def test_a_smaller_memory_makes_more_groups_and_an_impossible_one_is_refused() -> None:
    roomy, tight = plan(Protocol(), MNIST), plan(Protocol(), MNIST, machine=Machine("cpu", 2**28))
    assert len(tight) > len(roomy)
    with pytest.raises(InputError, match=r"memory \(=16 MiB\): expected room for one member, which needs"):
        plan(Protocol(), MNIST, machine=Machine("cpu", 2**24))


FUSED, FUSED_BF16 = Machine("cpu", 2**34), Machine("cpu", 2**34, bf16=Bf16(True, True, "AMX"))
PLAIN, CUDA = Machine("cpu", 2**34, fused="not built"), Machine("cuda", 2**34, fused="no triton")
FUSED = replace(FUSED, bf16=Bf16(False, False, "it has neither AVX512-BF16 nor AMX"))
SLOW_BF16 = Machine("cpu", 2**34, bf16=Bf16(True, False, "this processor multiplies bf16 at half its fp32 rate"))
GPU = Machine("cuda", 2**36, bf16=Bf16(True, True, "a GPU of capability 8.0 or more"))
OLD_GPU = Machine("cuda", 2**36, bf16=Bf16(False, False, "this GPU's capability is below 8.0"))
SLOW = Machine("cpu", 2**34, fused_slow="without AVX2 it is slow")


@pytest.mark.parametrize(
    ("asked", "spec", "machine", "chosen"),
    [
        (("auto", "auto"), MNIST, FUSED, ("fused", "fp32")),
        (("auto", "auto"), MNIST, FUSED_BF16, ("fused", "bf16")),
        (("auto", "fp32"), DIGITS, FUSED_BF16, ("fused", "fp32")),
        (("auto", "auto"), MNIST, SLOW_BF16, ("fused", "fp32")),
        (("fused", "auto"), DIGITS, SLOW_BF16, ("fused", "fp32")),
        (("auto", "bf16"), MNIST, SLOW_BF16, ("fused", "bf16")),
        (("auto", "fp64"), DIGITS, FUSED_BF16, ("stack", "fp64")),
        (("auto", "fp64"), MNIST, FUSED_BF16, ("loop", "fp64")),
        (("auto", "auto"), MNIST, PLAIN, ("loop", "fp32")),
        (("auto", "auto"), DIGITS, PLAIN, ("stack", "fp32")),
        (("auto", "auto"), MNIST, SLOW, ("loop", "fp32")),
        (("auto", "fp32"), DIGITS, SLOW, ("stack", "fp32")),
        (("fused", "auto"), MNIST, SLOW, ("fused", "fp32")),
        (("auto", "auto"), MNIST, CUDA, ("stack", "fp32")),
        (("auto", "auto"), MNIST, GPU, ("fused", "bf16")),
        (("auto", "auto"), MNIST, OLD_GPU, ("fused", "fp32")),
        (("auto", "tf32"), DIGITS, GPU, ("fused", "tf32")),
        (("auto", "fp64"), MNIST, GPU, ("stack", "fp64")),
        (("loop", "auto"), DIGITS, FUSED_BF16, ("loop", "fp32")),
    ],
)
def test_engine_and_precision_come_from_what_the_machine_can_do(
    asked: tuple[str, str], spec: Spec, machine: Machine, chosen: tuple[str, str]
) -> None:
    assert choose_engine(*asked, spec.stem_name != "none", machine) == chosen


def test_why_fused_is_not_taken_stands_in_the_plan_and_its_text() -> None:
    groups = plan(Protocol())
    for machine, why in ((SLOW, "without AVX2 it is slow"), (PLAIN, "not built"), (CUDA, "no triton")):
        reason = reason_for("auto", "stack", machine)
        assert reason == f"engine fused is not taken: {why}"
        made = Plan("cpu", "stack", "fp32", groups, reason)
        assert made.lines()[1] == reason
        assert Plan.from_dict(json.loads(json.dumps(made.to_dict())), Protocol()) == made
        assert reason_for("stack", "stack", machine) == ""
    assert reason_for("auto", "fused", FUSED) == reason_for("auto", "loop", FUSED) == ""
    assert len(Plan("cpu", "fused", "fp32", groups).lines()) == len(made.lines()) - 1


@pytest.mark.parametrize(
    ("asked", "chosen", "machine", "reason"),
    [
        ("auto", ("fused", "bf16"), FUSED_BF16, "bf16: AMX"),
        ("auto", ("fused", "fp32"), SLOW_BF16, "fp32: this processor multiplies bf16 at half its fp32 rate"),
        ("auto", ("fused", "fp32"), FUSED, "fp32: it has neither AVX512-BF16 nor AMX"),
        ("auto", ("stack", "fp32"), FUSED_BF16, "fp32: engine stack computes in fp32 or fp64"),
        ("bf16", ("fused", "bf16"), SLOW_BF16,
         "bf16, as asked for, though this processor multiplies bf16 at half its fp32 rate"),
        ("bf16", ("fused", "bf16"), FUSED_BF16, ""),
        ("fp32", ("fused", "fp32"), FUSED_BF16, ""),
    ],
)  # fmt: skip
def test_why_a_precision_is_taken_stands_in_the_plan_and_its_text(
    asked: str, chosen: tuple[str, str], machine: Machine, reason: str
) -> None:
    assert precision_reason(asked, *chosen, machine) == reason
    made = Plan("cpu", *chosen, plan(Protocol(), engine=chosen[0]), precision_reason=reason)
    assert made.lines()[1:-2][: bool(reason)] == [reason][: bool(reason)]
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict())), Protocol()) == made


@pytest.mark.parametrize(
    ("asked", "machine", "message"),
    [
        (("fused", "auto"), PLAIN, "not built"),
        (("fused", "fp64"), FUSED, "use --engine loop or stack"),
        (("fused", "bf16"), FUSED, "use --precision fp32"),
        (("auto", "bf16"), SLOW, "use --precision fp32"),
        (("stack", "bf16"), FUSED_BF16, "use --engine fused"),
        (("auto", "bf16"), CUDA, "use --engine fused, which cannot run here: no triton"),
        (("fused", "tf32"), FUSED_BF16, "only GPUs have it; use --precision fp32"),
        (("fused", "tf32"), OLD_GPU, "this GPU's capability is below 8.0; use --precision fp32"),
        (("fused", "bf16"), OLD_GPU, "this GPU's capability is below 8.0; use --precision fp32"),
        (("loop", "tf32"), GPU, "engine loop computes in fp32 or fp64; use --engine fused$"),
    ],
)
def test_an_engine_without_the_precision_is_refused(asked: tuple[str, str], machine: Machine, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_engine(*asked, True, machine)


def test_fused_groups_join_depths_until_threads_have_enough_members() -> None:
    groups = plan(Protocol(), MNIST, "fused", Machine("cpu", 2**34, threads=2))
    assert [len(group.members) for group in groups] == [22, 8, 10]
    assert [group.label for group in groups][::2] == ["depth 1 to 2: 22 candidates", "depth 4 to 8: 10 candidates"]
    assert all(group.padding_share == 0 for group in groups)
    assert len(plan(Protocol(), MNIST, "fused", Machine("cpu", 2**34, threads=64))) == 1
    assert len(plan(Protocol(seeds=tuple(range(9))), MNIST, "fused", Machine("cpu", 2**34, threads=2))) == 8


def test_a_gpu_takes_all_depths_at_once_as_far_as_memory_goes() -> None:
    (group,) = plan(Protocol(), MNIST, "fused", GPU)
    assert {member.candidate.depth for member in group.members} == set(range(1, 9))
    halves = plan(Protocol(), MNIST, "fused", replace(GPU, memory_bytes=group.predicted_bytes - 1))
    assert [len(half.members) for half in halves] == [20, 20]
    reduced = plan(Protocol(precision="bf16"), MNIST, "fused", GPU)[0]
    assert reduced.predicted_bytes != group.predicted_bytes


def test_counted_figures_of_a_group() -> None:
    protocol = Protocol(candidates=(Candidate((4,)), Candidate((8,))), epochs=2, adversarial_epochs=3)
    (group,) = plan(protocol)
    networks = [Network(DIGITS, candidate) for candidate in protocol.candidates]
    useful = sum(training_flops(network) for network in networks)
    assert group.flops == useful * (2 * 5000 + 3 * 10000)
    assert group.padding_share == pytest.approx(1 - useful / (2 * training_flops(networks[1])))
    assert group.parameters == (64 * 4 + 4 + 4 * 10 + 10) + (64 * 8 + 8 + 8 * 10 + 10)


def test_predicted_seconds_follow_the_measured_speed() -> None:
    (group,) = plan(Protocol(candidates=(Candidate((8,)),), epochs=1, adversarial_epochs=1))
    protocol = Protocol(candidates=(Candidate((8,)),), epochs=1, adversarial_epochs=1)
    launches = predict(group, DIGITS, protocol, 5000, 5000, Speed(1.0, 1e30, 1e30, 1e30)).predicted_seconds
    # 40 + 79 steps. Of 20 chunks of 250 images each: training, clean with its gradient, then clean and copies; test,
    # clean and two attacks of two calls each, then clean, static and one attack.
    assert launches == pytest.approx(119 + 20 * (4 + 5 + 4))
    compute = predict(group, DIGITS, protocol, 5000, 5000, Speed(0.0, 1e9, 1e9, 1e9)).predicted_seconds
    assert compute is not None
    assert compute > group.flops / 1e9


def test_attacks_and_transfer_are_priced() -> None:
    def seconds(**changes: object) -> Group:
        protocol = Protocol(candidates=(Candidate((8,)), Candidate((16,))), epochs=1, adversarial_epochs=1)
        protocol = protocol.replace(**changes)
        (group,) = plan(protocol)
        group = replace(group, padding_share=0.0)
        return predict(group, DIGITS, protocol, 5000, 5000, Speed(0.0, 1e9, 1e6, 5e5))

    # A gradient is two forward passes' FLOPs, here at half their speed.
    forward = sum(forward_flops(Network(DIGITS, Candidate((width,)))) for width in (8, 16)) * 5000 / 1e6
    plain = seconds().predicted_attack_seconds
    pgd = seconds(attacks=("fgsm", "pgd(steps=10, restarts=3)")).predicted_attack_seconds
    curve = seconds(epsilons=(0.0, 0.05, 0.1, 0.2)).predicted_attack_seconds
    batch = seconds(defence="batch(random-fgsm)").predicted_attack_seconds
    assert pgd - plain == pytest.approx(2 * forward * 3 * (10 * 4 + 1))  # type: ignore[operator]
    assert curve - plain == pytest.approx(2 * 2 * forward)  # 0 and the run's own 0.05 cost nothing  # type: ignore[operator]
    assert batch - plain == pytest.approx(forward * (4 + (3 + 11 * 4) * 100 / 5000))  # type: ignore[operator]
    assert seconds().predicted_transfer_seconds == 0
    both = seconds(transfer=True)
    assert both.predicted_transfer_seconds == pytest.approx(2 * forward * (2 + 1 + 4))
    assert both.predicted_seconds == pytest.approx(seconds().predicted_seconds + both.predicted_transfer_seconds)  # type: ignore[operator]


@pytest.mark.parametrize("speed", [Speed(0.0, 1e9, 1e6, 5e5), Speed(1.0, 1e30, 1e30, 1e30)])
def test_a_group_of_several_variants_is_priced_by_all_of_them(speed: Speed) -> None:
    asked = Protocol(
        candidates=(Candidate((8,)), Candidate((16,))), epochs=1, adversarial_epochs=1, precision="fp32",
        axes={"epsilon": (0.1, 0.3)}, epsilons=(0.1, 0.2), attacks=("pgd(steps=3)",), transfer=True,
    )  # fmt: skip
    own = [asked.of(variant) for variant in asked.variants]
    (group,) = make_groups(own[0], DIGITS, 5000, 5000, "stack", CPU, (), asked.variants)
    beside = dict.fromkeys(attack_parts(group, own[0]), AttackSpeed(0.0, 1e-3))
    assert {attack.epsilon for attack in beside} == {0.1, 0.2, 0.3}

    def seconds(members: tuple[Member, ...], protocol: Protocol) -> tuple[float, float]:
        some = predict(replace(group, members=members), DIGITS, protocol, 5000, 5000, speed, beside)
        return some.predicted_attack_seconds or 0.0, some.predicted_transfer_seconds or 0.0

    attacks, transfer = seconds(group.members, own[0])
    parts = [
        seconds(tuple(member for member in group.members if member.variant == variant), protocol)
        for variant, protocol in zip(asked.variants, own, strict=True)
    ]
    assert parts[0][0] < parts[1][0], "both cost the same: the test could not fail"
    assert transfer == pytest.approx(sum(part[1] for part in parts))
    if speed.step_seconds:  # members of both epsilons are evaluated together, but attacked one epsilon after the other
        assert parts[1][0] < attacks < sum(part[0] for part in parts)
    else:
        assert attacks == pytest.approx(sum(part[0] for part in parts))


def test_a_plan_survives_json_and_refuses_another_protocol() -> None:
    protocol = Protocol(seeds=(3, 4))
    groups = tuple(replace(group, predicted_seconds=1.5) for group in plan(protocol))
    made = Plan("cpu", "stack", "fp32", groups)
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict())), protocol) == made
    with pytest.raises(InputError, match="not the protocol's"):
        Plan.from_dict(made.to_dict(), Protocol())
    for broken in ({}, {"groups": 3}, made.to_dict() | {"groups": [{"members": [["x", 0]]}]}):
        with pytest.raises(InputError, match="expected one recorded by atras"):
            Plan.from_dict(broken, protocol)


def test_a_printed_plan_fits_80_columns() -> None:
    lines = Plan("cpu", "stack", "fp32", plan(Protocol(seeds=tuple(range(100))))).lines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split()[:2] == ["all", "4000"]


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation_batch": 0},
        {"evaluation_batch": "250"},
        {"parameters": None},
        {"flops": -1},
        {"padding_share": 1.0},
        {"predicted_bytes": 1e9},
        {"predicted_seconds": "soon"},
        {"engine": "fast"},
        {"precision": "auto"},
        {"precision": "bf16"},
        {"members": []},
        {"members": [["8", "0"]]},
        {"members": [["8", 0], ["8-8", 0]]},
        {"members": [["8"]]},
        {"colour": "red"},
    ],
)
def test_a_recorded_group_with_anything_else_in_it_is_refused(change: dict[str, Any]) -> None:
    protocol = Protocol(candidates=(Candidate((8,)), Candidate((8, 8))), seeds=(0,))
    whole = Plan("cpu", "stack", "fp32", plan(protocol)).to_dict()
    assert Plan.from_dict(whole, protocol)
    groups = [{**whole["groups"][0], **change}, *whole["groups"][1:]]
    with pytest.raises(InputError, match="plan: "):
        Plan.from_dict({**whole, "groups": groups}, protocol)


def test_a_plan_may_have_groups_of_several_engines() -> None:
    # A run that went on with another engine keeps the groups that the former one has finished.
    protocol = Protocol(candidates=(Candidate((8,)), Candidate((8, 8))), seeds=(0,))
    first, *others = plan(protocol)
    mixed = Plan("cpu", "stack", "fp32", (replace(first, engine="loop"), *others))
    assert Plan.from_dict(mixed.to_dict(), protocol) == mixed


@pytest.mark.parametrize(
    ("engine", "precision"), [("stack", "bf16"), ("fused", "fp64"), ("stack", "auto"), ("stack", "x")]
)
def test_a_recorded_plan_whose_engine_cannot_do_its_precision_is_refused(engine: str, precision: str) -> None:
    groups = tuple(replace(group, engine=engine) for group in plan(Protocol()))
    with pytest.raises(InputError, match=r"precision|does not compute in"):
        Plan.from_dict(Plan("cpu", engine, precision, groups).to_dict(), Protocol())


def test_a_printed_plan_says_what_attacks_and_transfer_take() -> None:
    protocol = Protocol(transfer=True)
    groups = tuple(predict(g, DIGITS, protocol, 5000, 5000, Speed(1e-3, 1e9, 1e9, 1e9)) for g in plan(protocol))
    last = Plan("cpu", "stack", "fp32", groups).lines()[-1]
    assert re.fullmatch(r"seconds of these: evaluation and attacks \d+\.\d, transfer \d+\.\d", last)
