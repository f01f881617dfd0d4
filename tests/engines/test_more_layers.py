"""Every kind of layer in every engine: stack against loop, groups that hold together, and what fused refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from atras.engines import Engine, FusedEngine, LoopEngine, StackEngine, why_not
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import ACTIVATIONS, Candidate, Member, Spec
from atras.planning import Machine, Speed, make_groups
from atras.running.prepare import make_plan

CPU = torch.device("cpu")
FP64 = Protocol(precision="fp64")
SPEC = Spec((2, 8, 7), 10, activation="softplus", head_rate256=32)
ALIKE = {
    "pools": ["c3k1-a2-ga-d0.5-5", "c4k1-a2-ga-d0.5-9", "c3k1-a2-ga-d0.5-7"],
    "norms": ["m0.5s0.25-c4k3-gn2-ln-6", "m0.5s0.25-c4k3-gn2-ln-3", "m0.5s0.25-c4k3-gn2-ln-4"],
    "pairs": ["c3-r4-r4s2-ga-d0.25-5", "c3-r4-r4s2-ga-d0.25-9", "c3-r4-r4s2-ga-d0.25-2"],
}


def train(engine: Engine, chosen: list[int]) -> list[list[float]]:
    """Losses [step][member] of six steps, every other one with images of its own for each of three members."""
    engine.begin_phase("train")
    draw = torch.Generator().manual_seed(5)
    losses = []
    for step in range(6):
        shape = ([3] if step % 2 else []) + [6]
        images = torch.rand(*shape, *engine.spec.image_shape, generator=draw, dtype=torch.float64)
        labels = torch.randint(0, 10, shape, generator=draw)
        images, labels = (images[chosen], labels[chosen]) if step % 2 else (images, labels)
        losses.append(engine.step(images, labels).losses.tolist())
    return losses


def flat(engine: Engine, index: int) -> Tensor:
    return torch.cat([values.flatten() for values in engine.get_parameters(index).values()])


@pytest.mark.parametrize("names", ALIKE.values(), ids=ALIKE.keys())
def test_a_stack_equals_the_loop_with_dropout_and_where_widths_are_padded(names: list[str]) -> None:
    # Dropout behind the filters of "pools" would refuse their padding.
    spec = dataclasses.replace(SPEC, head_rate256=0) if names is ALIKE["pools"] else SPEC
    members = [Member(Candidate.parse(name), seed) for seed, name in enumerate(names)]
    stack = StackEngine(spec, members, FP64, CPU)
    stacked = train(stack, [0, 1, 2])
    images = torch.rand(4, 2, 8, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradient, out = stack.gradient(images, None)
    for i, member in enumerate(members):
        loop = LoopEngine(spec, [member], FP64, CPU)
        before = flat(loop, 0)
        assert [row[i] for row in stacked] == pytest.approx([row[0] for row in train(loop, [i])], rel=1e-9)
        assert (flat(loop, 0) - before).abs().max() > 1e-3  # it has trained
        # Sums in another order differ by 1e-16; Adam's division may magnify that, never past this.
        torch.testing.assert_close(flat(stack, i), flat(loop, 0), rtol=1e-9, atol=1e-9)
        alone, alone_out = loop.gradient(images, None)
        torch.testing.assert_close(gradient[i], alone[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(out[i], alone_out[0], rtol=1e-9, atol=1e-9)


UNEQUAL = [("c4k3-gn2-5", "c6k3-gn2-5"), ("6-ln-5", "7-ln-5"), ("c3-r4-5", "c4-r4-5"), ("c3-d0.5-5", "c4-d0.5-5")]


@pytest.mark.parametrize("names", UNEQUAL, ids=str)
def test_widths_that_must_not_be_padded_are_grouped_apart_and_refused_together(names: tuple[str, str]) -> None:
    spec = dataclasses.replace(SPEC, head_rate256=0)
    candidates = tuple(map(Candidate.parse, names))
    protocol = Protocol(candidates=candidates, precision="fp32")
    groups = make_groups(protocol, spec, 50, 50, "stack", Machine("cpu", 2**34))
    assert [len(group.members) for group in groups] == [1, 1]
    with pytest.raises(InputError, match=r"^stack: expected equal filters in \w+1, which .*; use engine loop$"):
        StackEngine(spec, [Member(candidate, 0) for candidate in candidates], FP64, CPU)
    again = Protocol(candidates=(candidates[0], *map(Candidate.parse, (f"{names[0][:-1]}9",))), precision="fp32")
    assert len(make_groups(again, spec, 50, 50, "stack", Machine("cuda", 2**34))) == 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_padding_is_exact_under_every_activation(activation: str) -> None:
    spec = Spec((1, 4, 4), 10, activation=activation)
    members = [Member(Candidate.parse(name), 0) for name in ("c2-3-5", "c4-9-2")]
    together, alone = (StackEngine(spec, some, FP64, CPU) for some in (members, members[:1]))
    images = torch.rand(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(5)
    for engine in (together, alone):
        engine.begin_phase("train")
        for _ in range(3):
            engine.step(images, labels)
    torch.testing.assert_close(flat(together, 0), flat(alone, 0), rtol=1e-9, atol=1e-9)
    for name, values in together.parameters.items():
        outside = torch.ones_like(values[0], dtype=torch.bool)
        outside[tuple(slice(size) for size in alone.parameters[name][0].shape)] = False
        assert not values[0][outside].any(), name


@pytest.mark.parametrize("layer", ["a2", "ga", "d0.5", "gn2", "ln", "m0.5s0.5", "r4"])
def test_fused_refuses_what_it_has_not_and_auto_passes_it_over(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{layer}-8" if layer[0] == "m" else f"c4k3-{layer}-8"
    candidate, spec = Candidate.parse(text), Spec((1, 8, 8), 10)
    expected = f"it has convolutions and after them dense layers, not {layer}"
    assert FusedEngine.refusal(spec, [candidate]) == expected
    monkeypatch.setattr("atras.running.speeds.speed", lambda *_, **__: Speed(1.0, 1.0, 1.0, 1.0))
    plan = make_plan(Protocol(candidates=(candidate,)), Execution(device="cpu"))
    assert plan.engine in ("loop", "stack")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_has_the_first_four_activations(activation: str) -> None:
    refused = FusedEngine.refusal(Spec((1, 8, 8), 10, activation=activation), [Candidate((8,))])
    four = ("relu", "sigmoid", "tanh", "gelu")
    assert refused == ("" if activation in four else f"it has the activations {', '.join(four)}, not {activation}")


@pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
def test_fused_keeps_networks_without_the_stem_from_those_behind_it() -> None:
    candidates = tuple(map(Candidate.parse, ("24-192", "c8", "tramer-d")))
    spec = Spec((1, 28, 28), 10, "conv2", stem_auto=True)
    assert FusedEngine.alike(spec, candidates[0]) == FusedEngine.alike(spec, candidates[1]) == "conv2"
    assert FusedEngine.alike(spec, candidates[0], "cuda") != FusedEngine.alike(spec, candidates[1], "cuda")
    assert FusedEngine.alike(spec, candidates[2]) == "none"


@pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
def test_auto_takes_fused_for_what_it_has_and_another_engine_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atras.running.plans.why_slow", str)
    monkeypatch.setattr("atras.running.speeds.speed", lambda *_, **__: Speed(1.0, 1.0, 1.0, 1.0))
    names = ("8", "c3-ln-8", "c4", "gn1-5", "r2")
    protocol = Protocol(candidates=tuple(map(Candidate.parse, names)), train_size=60, test_size=30)
    plan = make_plan(protocol, Execution(device="cpu"))
    engines = {member.candidate.name: group.engine for group in plan.groups for member in group.members}
    assert engines == {"8": "fused", "c4": "fused", "c3-ln-8": "loop", "gn1-5": "loop", "r2": "loop"}
    assert (plan.engine, {group.precision for group in plan.groups if group.engine == "loop"}) == ("fused", {"fp32"})
    assert plan.reason == (
        "engine fused is not taken: it has convolutions and after them dense layers, not ln, for c3-ln-8, gn1-5, r2: "
        "engine loop in fp32 computes these"
    )
    asked = make_plan(protocol, Execution(device="cpu", engine="loop"))
    assert ({group.engine for group in asked.groups}, asked.reason) == ({"loop"}, "")
    double = make_plan(protocol.replace(precision="fp64"), Execution(device="cpu"))
    assert {group.engine for group in double.groups} == {"loop"}
    with pytest.raises(InputError, match=r"engine .=fused.: it has convolutions and after them dense layers, not ln"):
        make_plan(protocol, Execution(device="cpu", engine="fused"))
