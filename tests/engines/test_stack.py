"""A member's numbers do not depend on its neighbours: stack, loop and every grouping against each other."""

from __future__ import annotations

import pytest
import torch

from atras.engines import Engine, LoopEngine, StackEngine
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec

CPU = torch.device("cpu")
SPECS = {
    "none": Spec((1, 8, 8), 10, "none", head_rate256=64),
    "conv2": Spec((1, 14, 13), 10, "conv2"),
    "conv4": Spec((3, 12, 12), 10, "conv4", head_rate256=32),
}
MEMBERS = [Member(Candidate(hidden), seed) for hidden in ((8, 16), (5, 33), (24, 7)) for seed in (0, 3)]
STEPS = 10


def batches(spec: Spec, dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ten batches, one of them smaller, every other one with images of its own for each member."""
    draw = torch.Generator().manual_seed(5)
    made = []
    for step in range(STEPS):
        shape = ([len(MEMBERS)] if step % 2 else []) + [9 if step == 4 else 16]
        images = torch.rand(*shape, *spec.image_shape, generator=draw, dtype=torch.float64).to(dtype)
        made.append((images, torch.randint(0, 10, shape, generator=draw)))
    return made


def train(engine: Engine, chosen: list[int], spec: Spec) -> list[list[float]]:
    """Losses [step][member] of ten steps with dropout on."""
    engine.begin_phase("train")
    losses = []
    for images, labels in batches(spec, engine.dtype):
        own = images.ndim == 5
        losses.append(engine.step(images[chosen] if own else images, labels[chosen] if own else labels).losses.tolist())
    return losses


def parameters(engine: Engine, index: int) -> torch.Tensor:
    return torch.cat([values.flatten() for values in engine.get_parameters(index).values()])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("stem", SPECS)
@pytest.mark.parametrize("grouping", [[[0], [1], [2], [3], [4], [5]], [[0, 1, 2, 3, 4, 5]], [[0, 2, 4], [5, 1], [3]]])
def test_float64_any_grouping_equals_the_loop(grouping: list[list[int]], stem: str, optimizer: str) -> None:
    spec = SPECS[stem]
    protocol = Protocol(precision="fp64", optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else 0.0)
    for chosen in grouping:
        stack = StackEngine(spec, [MEMBERS[i] for i in chosen], protocol, CPU)
        stacked = train(stack, chosen, spec)
        for slot, i in enumerate(chosen):
            loop = LoopEngine(spec, [MEMBERS[i]], protocol, CPU)
            alone = train(loop, [i], spec)
            assert [row[slot] for row in stacked] == pytest.approx([row[0] for row in alone], rel=1e-9)
            # Sums in another order differ by 1e-16; Adam's division may magnify that, never past this.
            torch.testing.assert_close(parameters(stack, slot), parameters(loop, 0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stem", SPECS)
def test_float32_stack_follows_the_loop(stem: str) -> None:
    spec, chosen = SPECS[stem], list(range(len(MEMBERS)))
    stacked = train(StackEngine(spec, MEMBERS, Protocol(), CPU), chosen, spec)
    for i in chosen:
        alone = train(LoopEngine(spec, [MEMBERS[i]], Protocol(), CPU), [i], spec)
        # A gradient at rounding level can turn an Adam update of 1e-3 around; ten steps of that move a loss by 1e-4.
        assert [row[i] for row in stacked] == pytest.approx([row[0] for row in alone], rel=1e-3)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "gelu"])
def test_padding_is_exact_and_stays_zero(activation: str) -> None:
    spec = Spec((1, 8, 8), 10, "none", activation, head_rate256=64)
    members = [Member(Candidate((3, 5, 2)), 0), Member(Candidate((9, 4, 13)), 0)]
    protocol = Protocol(precision="fp64")
    padded, alone = StackEngine(spec, members, protocol, CPU), StackEngine(spec, members[:1], protocol, CPU)
    assert train_shared(padded, spec)[0] == pytest.approx(train_shared(alone, spec)[0], rel=1e-9)
    torch.testing.assert_close(parameters(padded, 0), parameters(alone, 0), rtol=1e-9, atol=1e-9)
    for name, values in padded.parameters.items():
        natural = alone.parameters[name][0]
        outside = torch.ones_like(values[0], dtype=torch.bool)
        outside[tuple(slice(size) for size in natural.shape)] = False
        assert not values[0][outside].any(), name


def train_shared(engine: Engine, spec: Spec) -> list[list[float]]:
    """Losses [member][step] of ten steps on shared images."""
    engine.begin_phase("train")
    draw = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        images = torch.rand(12, *spec.image_shape, generator=draw, dtype=torch.float64).to(engine.dtype)
        losses.append(engine.step(images, torch.randint(0, 10, (12,), generator=draw)).losses)
    return torch.stack(losses, 1).tolist()


@pytest.mark.parametrize("stem", SPECS)
def test_a_member_that_diverges_leaves_the_others_bitwise_unchanged(stem: str) -> None:
    spec, chosen = SPECS[stem], list(range(len(MEMBERS)))
    rates = [1e-3] * len(MEMBERS)
    calm = StackEngine(spec, MEMBERS, Protocol(), CPU, rates)
    losses = train(calm, chosen, spec)
    wild = StackEngine(spec, MEMBERS, Protocol(), CPU, [*rates[:2], 1e30, *rates[3:]])
    wild_losses = train(wild, chosen, spec)
    assert not torch.tensor(wild_losses)[-1, 2].isfinite()
    for i in set(chosen) - {2}:
        assert [row[i] for row in wild_losses] == [row[i] for row in losses]
        assert torch.equal(parameters(wild, i), parameters(calm, i))


def test_evaluation_and_gradients_of_a_stack_equal_the_loops() -> None:
    spec, protocol = SPECS["conv4"], Protocol(precision="fp64")
    stack = StackEngine(spec, MEMBERS, protocol, CPU)
    images = torch.rand(4, *spec.image_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradient, out = stack.gradient(images, lambda logits: logits.argmin(-1))
    for i, member in enumerate(MEMBERS):
        alone, alone_out = LoopEngine(spec, [member], protocol, CPU).gradient(images, lambda x: x.argmin(-1))
        torch.testing.assert_close(gradient[i], alone[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(out[i], alone_out[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(stack.logits(images), out, rtol=1e-12, atol=1e-12)


def test_members_taken_out_and_put_back_are_the_same() -> None:
    spec = SPECS["none"]
    stack = StackEngine(spec, MEMBERS, Protocol(), CPU)
    values_before = stack.get_parameters(3)
    images = torch.rand(2, *spec.image_shape)
    before = stack.logits(images)
    stack.set_parameters(3, {name: values + 1 for name, values in values_before.items()})
    assert not torch.equal(stack.logits(images)[3], before[3])
    stack.set_parameters(3, values_before)
    assert torch.equal(stack.logits(images), before)


def test_a_stack_of_several_depths_is_refused() -> None:
    with pytest.raises(InputError, match=r"depths \[1, 2\]"):
        StackEngine(SPECS["none"], [Member(Candidate((8,)), 0), Member(Candidate((8, 8)), 0)], Protocol(), CPU)
