"""Candidates with convolutions of their own: torch's network in loop, stack and as a module, and exact padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from atras.engines import Engine, LoopEngine, StackEngine
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Conv, Member, Network, Spec

CPU = torch.device("cpu")
FP64 = Protocol(precision="fp64", learning_rate=0.01)
STEPS = 10


def test_a_network_of_convolutions_is_torchs_in_loop_stack_and_as_a_module() -> None:
    candidate = Candidate.parse("c16k4s2z1-c32k4s2z1-100")
    textbook = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    ).double()  # fmt: skip
    spec = Spec((1, 28, 28), 10)
    network = Network(spec, candidate)
    shapes = {name: tuple(values.shape) for name, values in textbook.state_dict().items()}
    assert list(network.parameter_shapes.values()) == list(shapes.values())
    assert list(network.parameter_shapes)[::2] == ["conv1.weight", "conv2.weight", "dense1.weight", "logits.weight"]
    assert network.parameter_count == sum(values.numel() for values in textbook.parameters())
    own = dict(zip(network.parameter_shapes, textbook.state_dict().values(), strict=True))
    images = torch.rand(5, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = textbook(images)
    torch.testing.assert_close(network.logits(own, images), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.module(own)(images), expected, rtol=1e-12, atol=1e-12)
    assert [type(layer) for layer in network.module(own)] == [type(layer) for layer in textbook]
    member = Member(candidate, 0)
    for engine in (LoopEngine(spec, [member], FP64, CPU), StackEngine(spec, [member, Member(candidate, 1)], FP64, CPU)):
        engine.set_parameters(0, own)
        assert engine.get_parameters(0).keys() == own.keys()
        torch.testing.assert_close(engine.logits(images)[0], expected, rtol=1e-12, atol=1e-12)


# Kernels, strides, paddings and pools of every kind, and a convolution right before the logits.
STRUCTURES = {
    "pooled": ["c3p2-c2k2-7", "c5p2-c4k2-4", "c2p2-c6k2-9"],
    "strided": ["c4k4s2z1-5", "c7k4s2z1-3", "c1k4s2z1-8"],
    "same": ["c3k3zsamep3-c2k1-6", "c2k3zsamep3-c5k1-6", "c6k3zsamep3-c3k1-6"],
    "last": ["c3k5", "c8k5", "c5k5"],
}


def train(engine: Engine, chosen: list[int]) -> list[list[float]]:
    """Losses [step][member] of ten steps; every other one with images of its own for each member."""
    engine.begin_phase("train")
    draw = torch.Generator().manual_seed(5)
    losses = []
    for step in range(STEPS):
        shape = [3, 12] if step % 2 else [12]
        images = torch.rand(*shape, *engine.spec.image_shape, generator=draw, dtype=torch.float64)
        labels = torch.randint(0, 10, shape, generator=draw)
        images, labels = (images[chosen], labels[chosen]) if step % 2 else (images, labels)
        losses.append(engine.step(images, labels).losses.tolist())
    return losses


def flat(engine: Engine, index: int, moment: int = 0) -> Tensor:
    return torch.cat([values.flatten() for values in engine.get_parameters(index, moment).values()])


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("names", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_a_stack_of_different_filters_equals_the_loop_and_its_padding_stays_zero(
    names: list[str], activation: str
) -> None:
    spec = Spec((2, 8, 7), 10, "none", activation)
    members = [Member(Candidate.parse(name), seed) for seed, name in enumerate(names)]
    stack = StackEngine(spec, members, FP64, CPU)
    stacked, padded = train(stack, [0, 1, 2]), 0
    for i, member in enumerate(members):
        loop = LoopEngine(spec, [member], FP64, CPU)
        before = flat(loop, 0)
        assert [row[i] for row in stacked] == pytest.approx([row[0] for row in train(loop, [i])], rel=1e-9)
        assert (flat(loop, 0) - before).abs().max() > 0.03  # it has trained
        for moment in range(3):
            # Sums in another order differ by 1e-16; Adam's division may magnify that, never past this.
            torch.testing.assert_close(flat(stack, i, moment), flat(loop, 0, moment), rtol=1e-9, atol=1e-9)
        for name, natural in loop.networks[0].parameter_shapes.items():
            outside = torch.ones(stack.parameters[name].shape[1:], dtype=torch.bool)
            outside[tuple(slice(size) for size in natural)] = False
            padded += int(outside.sum())
            place = list(stack.parameters).index(name)
            for values in (stack.parameters[name], stack.optimizer.first[place], stack.optimizer.second[place]):
                assert not values[i][outside].any(), name
    assert padded


def test_gradients_of_a_stack_of_different_filters_equal_the_loops() -> None:
    spec = Spec((2, 8, 7), 10, "none", "sigmoid")
    members = [Member(Candidate.parse(name), seed) for seed, name in enumerate(STRUCTURES["pooled"])]
    images = torch.rand(4, 2, 8, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradient, out = StackEngine(spec, members, FP64, CPU).gradient(images, None)
    for i, member in enumerate(members):
        alone, alone_out = LoopEngine(spec, [member], FP64, CPU).gradient(images, None)
        torch.testing.assert_close(gradient[i], alone[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(out[i], alone_out[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rates", [(0.25, 0), (0.0, 64)], ids=["own", "head"])
def test_dropout_behind_different_filters_is_refused_in_a_stack(rates: tuple[float, int]) -> None:
    own, head = rates
    spec = Spec((1, 8, 8), 10, head_rate256=head)
    members = [Member(Candidate([Conv(filters, dropout=own), 8]), 0) for filters in (3, 4)]
    with pytest.raises(InputError) as caught:
        StackEngine(spec, members, FP64, CPU)
    assert str(caught.value) == (
        "stack: expected equal filters in conv1, which has dropout, got several; use engine loop"
    )
    StackEngine(spec, members[:1] * 2, FP64, CPU)


def test_dropout_behind_equal_filters_equals_the_loops() -> None:
    spec = Spec((2, 8, 7), 10, head_rate256=64)
    members = [Member(Candidate.parse(name), 3) for name in ("c4p2d0.5-6", "c4p2d0.5-9")]
    members.append(Member(members[0].candidate, 4))
    stacked = train(StackEngine(spec, members, FP64, CPU), [0, 1, 2])
    for i, member in enumerate(members):
        alone = train(LoopEngine(spec, [member], FP64, CPU), [i])
        assert [row[i] for row in stacked] == pytest.approx([row[0] for row in alone], rel=1e-9)
