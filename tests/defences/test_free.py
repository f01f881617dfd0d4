"""Free adversarial training takes the images' gradient out of the backward pass of the step itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from atras.defences import Batch, Free
from atras.engines import Engine, FusedEngine, LoopEngine, ModulesEngine, ModuleStackEngine, StackEngine, why_not
from atras.experiment import Protocol
from atras.networks import Candidate, Factory, Member, Own, Spec
from atras.planning.cost import evaluation_passes

CPU = torch.device("cpu")
SPEC = Spec((1, 5, 5), 4, activation="tanh")
MEMBERS = [Member(Candidate((6, 4)), 0), Member(Candidate((5, 7)), 3)]
OWN = [Member(Candidate([Own(Factory.of("mine", lambda: nn.Sequential(nn.Flatten(), nn.Linear(25, 4))))]), 0)]
GROUPS = [(LoopEngine, MEMBERS[:1]), (StackEngine, MEMBERS), (ModulesEngine, OWN), (ModuleStackEngine, OWN)]
NEEDS_FUSED = pytest.mark.skipif(bool(why_not(CPU)), reason=f"engine fused: {why_not(CPU)}")


def engine_of(kind: type[Engine], members: list[Member], spec: Spec = SPEC, **changes: Any) -> Engine:
    engine = kind(
        spec, members, Protocol(**{"precision": "fp32", "defence": "free", "learning_rate": 0.1} | changes), CPU
    )
    engine.begin_phase("adversarial")
    return engine


def batch(size: int = 8) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(size, 1, 5, 5, generator=draw), torch.randint(0, 4, (size,), generator=draw)


@pytest.mark.parametrize(("kind", "members"), GROUPS)
def test_autograd_gives_both_gradients_in_one_pass(kind: type[Engine], members: list[Member]) -> None:
    engine, (images, labels) = engine_of(kind, members), batch()

    def refuse(*_: Any) -> None:
        raise AssertionError("a pass of its own")

    engine._gradient = refuse  # type: ignore[method-assign]
    kept: dict[str, Tensor] = {}
    seen, step = [], engine.step
    engine.step = lambda *given: seen.append(step(*given)) or seen[-1]  # type: ignore[method-assign, func-returns-value]
    told = Free(replays=2, epsilon=0.1).step(engine, Batch(images, labels, labels < 0, 1, 0, None, 1, kept))
    assert engine.steps == 2
    first, second = seen
    assert not torch.equal(first.losses, second.losses)
    torch.testing.assert_close(told.losses, (first.losses + second.losses) / 2)
    assert torch.equal(told.correct, first.correct + second.correct)
    assert float(kept["delta"].abs().max()) == pytest.approx(0.1)


@pytest.mark.parametrize("changes", [{}, {"label_smoothing": 0.3}, {"head_dropout": 0.25}, {"average": 0.9}])
@pytest.mark.parametrize("kind", [LoopEngine, StackEngine, pytest.param(FusedEngine, marks=NEEDS_FUSED)])
def test_the_gradient_is_that_of_what_the_step_trains_for(kind: type[Engine], changes: dict[str, Any]) -> None:
    """Of all engines alike, before the update; with dropout, which `fused` has in its steps alone, in evaluation."""
    spec = Spec((1, 5, 5), 4, activation="tanh", head_rate256=64 if "head_dropout" in changes else 0)
    engine, (images, labels) = engine_of(kind, MEMBERS[:1], spec, **changes), batch()
    for _ in range(2):  # an average is the weights themselves after the first, and no longer after the second
        engine.step(images, labels)
    values = engine.get_parameters(0)
    x = images.clone().requires_grad_()
    out = engine.networks[0].logits(values, x)
    smoothing = changes.get("label_smoothing", 0.0)
    torch.nn.functional.cross_entropy(out, labels, label_smoothing=smoothing).backward()
    result, gradient = engine.step_and_gradient(images, labels)
    assert gradient.shape == (1, *images.shape)
    assert cosine_similarity(gradient[0].flatten(1), x.grad.flatten(1)).min() > 0.9999  # type: ignore[union-attr]
    alone = engine_of(kind, MEMBERS[:1], spec, **changes)
    for _ in range(2):
        alone.step(images, labels)
    assert result.losses == pytest.approx(alone.step(images, labels).losses, rel=1e-5)
    for name, moved in engine.get_parameters(0).items():
        torch.testing.assert_close(moved, alone.get_parameters(0)[name], rtol=0, atol=1e-4)  # float32, Adam at 0.1


@pytest.mark.parametrize("kind", [LoopEngine, StackEngine])
def test_it_does_not_fade_where_a_network_is_sure(kind: type[Engine]) -> None:
    """Where float32 rounds the label's probability to 1, the softmax less 1 is 0, and the direction another."""
    engine, (images, _) = engine_of(kind, MEMBERS[:1]), batch()
    values = engine.get_parameters(0)
    engine.set_parameters(0, {**values, "logits.weight": 40 * values["logits.weight"]})
    labels = engine.logits(images)[0].argmax(-1)
    exact, _ = engine.gradient(images, labels)  # of the log-odds
    sure = engine.logits(images).softmax(-1).amax(-1)[0] == 1
    _, gradient = engine.step_and_gradient(images, labels)
    assert sure.any()
    # As float64, whose cosine does not take lengths of 1e-13 for none.
    ours, theirs = (each[0][sure].double().flatten(1) for each in (gradient, exact))
    assert cosine_similarity(ours, theirs, eps=1e-30).min() > 0.999


def test_a_plan_counts_no_pass_where_there_is_none() -> None:
    asked = Protocol(defence="free(replays=4)")
    own, within = (evaluation_passes(asked, 10, 100, 50, one_pass=one_pass) for one_pass in (False, True))
    assert own.gradient - within.gradient == asked.adversarial_epochs * 100 * 4
    other = asked.replace(defence="fast")
    assert evaluation_passes(other, 10, 100, 50, one_pass=True) == evaluation_passes(other, 10, 100, 50)
