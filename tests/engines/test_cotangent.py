"""The one primitive behind training and gradients: any objective, as labels, as its derivative, or as a function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atras.engines import Engine, FusedEngine, LoopEngine, StackEngine, why_not
from atras.experiment import Protocol
from atras.networks import Candidate, Cotangent, Member, Objective, Spec

CPU = torch.device("cpu")
SPECS = {"none": Spec((1, 6, 6), 5, head_rate256=64), "conv2": Spec((1, 11, 10), 5, "conv2", "tanh")}
MEMBERS = [Member(Candidate(hidden), seed) for hidden, seed in (((7, 9), 0), ((4, 12), 3), ((7, 9), 3))]
ENGINES = [LoopEngine, StackEngine]
NEEDS_FUSED = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")
ALL_ENGINES = [*ENGINES, pytest.param(FusedEngine, marks=NEEDS_FUSED)]
DOUBLE, SINGLE = Protocol(precision="fp64"), Protocol(precision="fp32")


def groups(kind: type[Engine]) -> list[list[int]]:
    """The members of each engine object."""
    return [[i] for i in range(len(MEMBERS))] if kind.one_by_one else [list(range(len(MEMBERS)))]


def make(kind: type[Engine], spec: Spec, chosen: list[int], protocol: Protocol) -> Engine:
    engine = kind(spec, [MEMBERS[i] for i in chosen], protocol, CPU)
    engine.begin_phase("train")
    return engine


def inputs(spec: Spec, count: int, dtype: torch.dtype, seed: int = 0, own: bool = False) -> tuple[Tensor, Tensor]:
    """Images, shared or of each member's own, and labels likewise."""
    draw, shape = torch.Generator().manual_seed(seed), [len(MEMBERS), count] if own else [count]
    images = torch.rand(*shape, *spec.image_shape, generator=draw, dtype=torch.float64).to(dtype)
    return images, torch.randint(0, spec.classes, shape, generator=draw)


def cross_entropy(labels: Tensor, mean: bool = False) -> Cotangent:
    """Cross-entropy's own gradient as a function of the logits [M, B, Y]: softmax less one-hot, over B where mean."""

    def function(logits: Tensor) -> Tensor:
        hot = F.one_hot(labels.expand(logits.shape[:2]), logits.shape[-1]).to(logits.dtype)
        return (logits.softmax(-1) - hot) / (logits.shape[1] if mean else 1)

    return function


def odds(labels: Tensor) -> Cotangent:
    """The log-odds' gradient as a function of the logits [M, B, Y], by autograd."""

    def function(logits: Tensor) -> Tensor:
        z = logits.clone().requires_grad_()
        own = labels.expand(logits.shape[:2])[..., None]
        value = z.scatter(-1, own, -torch.inf).logsumexp(-1, keepdim=True) - z.gather(-1, own)
        return torch.autograd.grad(value.sum(), z)[0]

    return function


def margin(logits: Tensor) -> Tensor:
    """Of the objective max of the others' logits less the first class's, summed over images: its gradient by hand."""
    best = 1 + logits[..., 1:].argmax(-1)
    up = F.one_hot(best, logits.shape[-1]) - F.one_hot(torch.zeros_like(best), logits.shape[-1])
    return up.to(logits.dtype)


OBJECTIVES = {
    "margin": (margin, lambda out: (out[:, 1:].amax(1) - out[:, 0]).sum()),
    "squares": (lambda logits: 2 * logits, lambda out: out.square().sum()),
}
"""A cotangent, and the objective of one network's logits [B, Y] that it is the gradient of."""


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("stem", SPECS)
@pytest.mark.parametrize("kind", ENGINES)
def test_every_form_of_the_log_odds_gives_one_gradient(kind: type[Engine], stem: str, own: bool) -> None:
    spec = SPECS[stem]
    images, labels = inputs(spec, 6, torch.float64, own=own)
    for chosen in groups(kind):
        engine = make(kind, spec, chosen, DOUBLE)
        x, y = (images[chosen], labels[chosen]) if own else (images, labels)
        gradient, logits = engine.gradient(x, y)
        assert gradient.shape == (len(chosen), 6, *spec.image_shape)
        assert torch.equal(logits, engine.logits(x))
        direct = odds(y)
        seen = []
        forms: list[Cotangent] = [
            y.expand(len(chosen), 6),
            lambda out: y,  # noqa: B023 (called at once)
            direct,
            direct(logits),  # type: ignore[operator, misc]
            lambda out: seen.append(out) or direct(out),  # type: ignore[func-returns-value, operator, misc]  # noqa: B023
        ]
        slope, _ = engine.gradient(x, cross_entropy(y))  # of the cross-entropy: the same times 1 - p
        p = logits.softmax(-1).gather(-1, y.expand(len(chosen), 6)[..., None])
        torch.testing.assert_close(slope, (1 - p)[..., None, None] * gradient, rtol=1e-9, atol=1e-12)
        for form in forms:
            found, out = engine.gradient(x, form)
            torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-12)
            assert torch.equal(out, logits)
        assert torch.equal(seen[0], logits)
        assert not seen[0].requires_grad


@pytest.mark.parametrize("kind", ALL_ENGINES)
def test_without_a_cotangent_the_objective_is_at_each_members_own_predictions(kind: type[Engine]) -> None:
    spec, protocol = SPECS["none"], SINGLE
    images, _ = inputs(spec, 40, torch.float32)
    for chosen in groups(kind):
        engine = make(kind, spec, chosen, protocol)
        gradient, logits = engine.gradient(images, None)
        predicted = logits.argmax(-1)
        again, out = engine.gradient(images, predicted)
        assert torch.equal(out, logits)
        assert torch.equal(gradient, again)
        if len(chosen) > 1:
            assert (predicted[0] != predicted[1]).any()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("stem", SPECS)
@pytest.mark.parametrize("kind", ENGINES)
def test_other_objectives_have_the_gradient_that_autograd_finds_on_the_module(
    kind: type[Engine], stem: str, objective: str
) -> None:
    spec, (cotangent, value) = SPECS[stem], OBJECTIVES[objective]
    images, _ = inputs(spec, 6, torch.float64)
    for chosen in groups(kind):
        engine = make(kind, spec, chosen, DOUBLE)
        gradient, logits = engine.gradient(images, cotangent)
        assert torch.equal(engine.gradient(images, cotangent(logits))[0], gradient)
        for slot in range(len(chosen)):
            x = images.clone().requires_grad_()
            module = engine.networks[slot].module(engine.get_parameters(slot))
            (expected,) = torch.autograd.grad(value(module(x)), x)
            assert expected.any()
            torch.testing.assert_close(gradient[slot], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ENGINES)
def test_a_step_of_another_objective_is_the_step_that_autograd_makes_on_the_module(
    kind: type[Engine], objective: str
) -> None:
    spec, (cotangent, value) = SPECS["conv2"], OBJECTIVES[objective]  # without dropout, which modules leave out
    images, labels = inputs(spec, 6, torch.float64)
    protocol = DOUBLE.replace(optimizer="sgd", learning_rate=0.1)
    for chosen in groups(kind):
        engine, other = (make(kind, spec, chosen, protocol) for _ in range(2))
        before = [engine.get_parameters(slot) for slot in range(len(chosen))]
        result = engine.step(images, labels, cotangent)
        other.step(images, labels, cotangent(other.logits(images)))
        for slot, parameters in enumerate(before):
            torch.testing.assert_close(flat(other, slot), flat(engine, slot), rtol=1e-12, atol=1e-12)
            module = engine.networks[slot].module(parameters)
            out = module(images)
            value(out).backward()
            for name, values in module.named_parameters():
                torch.testing.assert_close(
                    engine.get_parameters(slot)[name], values.detach() - 0.1 * values.grad, rtol=1e-9, atol=1e-9
                )
            # Loss and correct predictions are told at the labels, whatever is trained for.
            assert result.losses[slot].item() == pytest.approx(F.cross_entropy(out, labels).item(), rel=1e-12)
            assert result.correct[slot].item() == (out.argmax(1) == labels).sum().item()


def train(engine: Engine, chosen: list[int], form: str) -> list[list[float]]:
    """Losses [step][member] of ten steps with dropout on; every other one with images of each member's own."""
    losses = []
    for step in range(10):
        own = bool(step % 2)
        images, labels = inputs(engine.spec, 9 if step == 4 else 16, engine.dtype, seed=step, own=own)
        x, y = (images[chosen], labels[chosen]) if own else (images, labels)
        forms: dict[str, Cotangent] = {
            "none": None,
            "cross-entropy": cross_entropy(y, mean=True),
            "margin": lambda out: (out.softmax(-1) + margin(out)) / out.shape[1],
        }
        losses.append(engine.step(x, y, forms[form]).losses.tolist())
    return losses


def flat(engine: Engine, slot: int) -> Tensor:
    return torch.cat([values.flatten() for values in engine.get_parameters(slot).values()])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("stem", SPECS)
@pytest.mark.parametrize("kind", ENGINES)
def test_ten_steps_by_the_cross_entropys_own_gradient_are_those_by_labels(
    kind: type[Engine], stem: str, optimizer: str
) -> None:
    protocol = DOUBLE.replace(optimizer=optimizer)
    for chosen in groups(kind):
        plain, explicit = (make(kind, SPECS[stem], chosen, protocol) for _ in range(2))
        losses = train(plain, chosen, "none"), train(explicit, chosen, "cross-entropy")
        for row, expected in zip(*losses, strict=True):
            assert row == pytest.approx(expected, rel=1e-12)
        for slot in range(len(chosen)):
            torch.testing.assert_close(flat(plain, slot), flat(explicit, slot), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("stem", SPECS)
@pytest.mark.parametrize("form", ["cross-entropy", "margin"])
def test_ten_steps_by_a_function_are_the_same_in_stack_and_loop(form: str, stem: str, optimizer: str) -> None:
    protocol, everyone = DOUBLE.replace(optimizer=optimizer), list(range(len(MEMBERS)))
    stack = make(StackEngine, SPECS[stem], everyone, protocol)
    stacked = train(stack, everyone, form)
    for i in everyone:
        loop = make(LoopEngine, SPECS[stem], [i], protocol)
        assert [row[i] for row in stacked] == pytest.approx([row[0] for row in train(loop, [i], form)], rel=1e-9)
        torch.testing.assert_close(flat(stack, i), flat(loop, 0), rtol=1e-9, atol=1e-9)


@NEEDS_FUSED
@pytest.mark.parametrize("form", ["cross-entropy", "margin"])
@pytest.mark.parametrize("stem", SPECS)
def test_ten_steps_of_engine_fused_by_a_function_follow_the_loop(stem: str, form: str) -> None:
    everyone = list(range(len(MEMBERS)))
    fused = train(make(FusedEngine, SPECS[stem], everyone, SINGLE), everyone, form)
    for i in everyone:
        alone = train(make(LoopEngine, SPECS[stem], [i], SINGLE), [i], form)
        # A gradient at rounding level can turn an Adam update of 1e-3 around; ten steps of that move a loss by 1e-4.
        assert [row[i] for row in fused] == pytest.approx([row[0] for row in alone], rel=1e-3)


@NEEDS_FUSED
@pytest.mark.parametrize("objective", ["labels", "function of labels", "none", *OBJECTIVES])
@pytest.mark.parametrize("stem", SPECS)
def test_gradients_of_engine_fused_are_the_loops_and_its_logits_those_of_an_evaluation(
    stem: str, objective: str
) -> None:
    spec, everyone = SPECS[stem], list(range(len(MEMBERS)))
    for own in (False, True):
        images, labels = inputs(spec, 7, torch.float32, own=own)
        forms: dict[str, Cotangent] = {"labels": labels, "function of labels": lambda out: out.argmin(-1), "none": None}
        forms |= {name: function for name, (function, _) in OBJECTIVES.items()}
        fused = make(FusedEngine, spec, everyone, SINGLE)
        gradient, logits = fused.gradient(images, forms[objective])
        assert torch.equal(logits, fused.logits(images))
        for i in everyone:
            loop = make(LoopEngine, spec, [i], SINGLE)
            form = labels[i] if own and objective == "labels" else forms[objective]
            alone, _ = loop.gradient(images[i] if own else images, form)
            # float32 sums of up to a thousand terms of size 1e-2 to 1.
            torch.testing.assert_close(gradient[i], alone[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "targeted"), [("odds", False), ("margin", False), ("dlr", False), ("margin", True), ("dlr", True)]
)
@pytest.mark.parametrize("kind", ALL_ENGINES)
def test_an_objective_has_the_gradient_of_the_function_that_it_is(
    kind: type[Engine], objective: str, targeted: bool
) -> None:
    spec = SPECS["conv2"]
    images, labels = inputs(spec, 8, torch.float32)
    for chosen in groups(kind):
        engine = make(kind, spec, chosen, SINGLE)
        counts = torch.tensor([8, *([0] * (len(chosen) - 1))])
        for own, given in ((labels, None), (labels.expand(len(chosen), 8), None), (labels, counts)):
            known = Objective(objective, own, (own + 2) % 5 if targeted else None)
            gradient, logits = engine.gradient(images, known, given)
            expected, out = engine.gradient(images, lambda z: known(z), given)  # noqa: B023 (called at once)
            assert torch.equal(logits, out)
            # The log-odds' gradient is made in C++ of exponentials of its own, within 1e-6.
            torch.testing.assert_close(gradient, expected, rtol=1e-4 if objective == "odds" else 0, atol=1e-7)
            assert gradient.any()


@NEEDS_FUSED
def test_engine_fused_needs_no_further_pass_for_an_objective_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = inputs(SPECS["none"], 5, torch.float32)
    engine, passes = make(FusedEngine, SPECS["none"], [0, 1, 2], SINGLE), []
    forward = engine._op.logits  # type: ignore[attr-defined]
    monkeypatch.setattr(engine._op, "logits", lambda *given, **more: passes.append(1) or forward(*given, **more))  # type: ignore[attr-defined, func-returns-value]
    engine.gradient(images, lambda logits: Objective("dlr", labels)(logits))
    assert passes == [1]
    for known in (Objective("dlr", labels), Objective("margin", labels), Objective("dlr", labels, (labels + 1) % 5)):
        engine.gradient(images, known)
    assert passes == [1]


@pytest.mark.parametrize("kind", ALL_ENGINES)
def test_a_gradient_leaves_the_images_and_the_networks_as_they_were(kind: type[Engine]) -> None:
    images, labels = inputs(SPECS["none"], 5, torch.float32)
    for chosen in groups(kind):
        engine = make(kind, SPECS["none"], chosen, SINGLE)
        before, kept = flat(engine, 0), images.clone()
        gradient, logits = engine.gradient(images, labels)
        assert torch.equal(images, kept)
        assert torch.equal(flat(engine, 0), before)
        assert [tensor.requires_grad for tensor in (images, gradient, logits)] == [False] * 3
