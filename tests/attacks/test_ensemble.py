"""Ensembles: gradients against autograd in float64, whatever the engines and groups, and every attack made on them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atras.attacks import ATTACKS, Ensemble
from atras.attacks.norms import norm_of
from atras.engines import Engine, LoopEngine, StackEngine
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Objective, Spec

CPU = torch.device("cpu")
SPEC = Spec((1, 5, 5), 4)
MEMBERS = [Member(Candidate(widths), seed) for widths, seed in (((6,), 0), ((9,), 0), ((7, 5), 1), ((6,), 1))]
GROUPS = [(0, 2, 3), (3, 1, 2)]
"""Two ensembles that share networks."""
HOWS = ("logits", "probabilities", "losses")
ObjectiveAt = Callable[[Tensor, Tensor], Tensor]


def engines(divided: bool, precision: str = "fp64") -> list[Engine]:
    """The members in one engine as far as one takes them, or in an engine each."""
    protocol = Protocol(precision=precision)
    if divided:
        return [LoopEngine(SPEC, [member], protocol, CPU) for member in MEMBERS]
    return [StackEngine(SPEC, part, protocol, CPU) for part in (MEMBERS[:2], MEMBERS[2:3], MEMBERS[3:])]


def sharp(parts: list[Engine], factor: float = 4.0) -> list[Engine]:
    """Networks that disagree, each surer of itself."""
    for part in parts:
        for index in range(len(part.members)):
            values = part.get_parameters(index)
            part.set_parameters(index, {name: factor * value for name, value in values.items()})
    return parts


def each_logits(parts: list[Engine], group: tuple[int, ...], images: Tensor) -> Tensor:
    """[K, B, Y] of an ensemble's networks, which autograd can follow."""
    flat = [(part, index) for part in parts for index in range(len(part.members))]
    chosen = [flat[place] for place in group]
    return torch.stack([part.networks[i].logits(part.get_parameters(i), images) for part, i in chosen])


def joint(how: str, logits: Tensor) -> Tensor:
    if how == "logits":
        return logits.mean(0)
    return logits.softmax(-1).mean(0).log() if how == "probabilities" else logits.log_softmax(-1).mean(0)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    top = logits.sort(-1).values
    others = logits.masked_fill(F.one_hot(labels, logits.shape[-1]).bool(), -torch.inf).amax(-1)
    return (others - logits.gather(-1, labels[..., None])[..., 0]) / (top[..., -1] - top[..., -3])


def wanted(how: str, objective: ObjectiveAt, parts: list[Engine], images: Tensor, labels: Tensor) -> Tensor:
    """[2, B, C, H, W], the gradient of an ensemble's objective: of its joint logits, or its members' mean."""
    found = []
    for group, x, y in zip(GROUPS, images, labels, strict=True):
        own = x.clone().requires_grad_()
        logits = each_logits(parts, group, own)
        each = objective(logits, y.expand(len(group), -1)).mean(0)
        value = each if how == "losses" else objective(joint(how, logits), y)
        found.append(torch.autograd.grad(value.sum(), own)[0])
    return torch.stack(found)


def inputs(count: int = 7) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    images = torch.rand(2, count, *SPEC.image_shape, generator=draw, dtype=torch.float64)
    return images, torch.randint(0, 4, (2, count), generator=draw)


@pytest.mark.parametrize("divided", [True, False], ids=["loops", "stacks"])
@pytest.mark.parametrize("how", HOWS)
def test_gradients_of_any_objective_are_those_of_autograd(how: str, divided: bool) -> None:
    parts, (images, labels) = sharp(engines(divided)), inputs()
    ensemble = Ensemble(parts, how, GROUPS)
    expected = torch.stack([joint(how, each_logits(parts, g, x)) for g, x in zip(GROUPS, images, strict=True)])
    torch.testing.assert_close(ensemble.logits(images), expected, rtol=1e-9, atol=1e-9)

    def slope(z: Tensor) -> Tensor:
        own = z.detach().requires_grad_()
        return torch.autograd.grad(dlr(own, labels).sum(), own)[0]

    gradient, logits = ensemble.gradient(images, slope)
    torch.testing.assert_close(gradient, wanted(how, dlr, parts, images, labels), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    at_labels, _ = ensemble.gradient(images, labels)
    assert torch.equal(ensemble.gradient(images, Objective("odds", labels))[0], at_labels)
    fixed = torch.randn(*expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for group, x, slope, found in zip(GROUPS, images, fixed, ensemble.gradient(images, fixed)[0], strict=True):
        own = x.clone().requires_grad_()
        torch.autograd.backward(joint(how, each_logits(parts, group, own)), slope)
        torch.testing.assert_close(found, own.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("how", HOWS)
def test_at_labels_the_direction_is_that_of_the_cross_entropy(how: str) -> None:
    parts, (images, labels) = sharp(engines(True)), inputs()

    def entropy(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)

    found, logits = Ensemble(parts, how, GROUPS).gradient(images, labels)
    expected = wanted(how, entropy, parts, images, labels).flatten(2)
    unit = F.normalize(found.flatten(2), dim=2)
    torch.testing.assert_close(unit, F.normalize(expected, dim=2), rtol=1e-9, atol=1e-9)
    own, _ = Ensemble(parts, how, GROUPS).gradient(images, None)
    torch.testing.assert_close(own, Ensemble(parts, how, GROUPS).gradient(images, logits.argmax(-1))[0])


@pytest.mark.parametrize("how", HOWS)
def test_where_all_are_sure_there_is_still_a_gradient(how: str) -> None:
    parts, (images, _) = sharp(engines(True, "fp32"), 40.0), inputs()
    ensemble = Ensemble(parts, how, [(0, 2, 3)])
    x = images[0].float()
    labels = ensemble.logits(x).argmax(-1)
    every = each_logits(parts, (0, 2, 3), x)
    agreed = (every.log_softmax(-1).gather(-1, labels.expand(3, -1)[..., None]) == 0).all(0)[:, 0]
    gradient, _ = ensemble.gradient(x, labels)
    assert gradient.isfinite().all()
    assert agreed.any()  # a cross-entropy in float32 would have none there
    there = gradient.abs().amax((2, 3, 4))[0] > 0
    # Where networks are sure of different classes, the mean of their probabilities does not move indeed.
    assert (there if how != "probabilities" else there[agreed]).all()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("divided", [True, False], ids=["loops", "stacks"])
def test_pairs_are_the_same_images_one_by_one(how: str, divided: bool) -> None:
    ensemble, (images, labels) = Ensemble(engines(divided), how, GROUPS), inputs()
    counts = torch.tensor([2, 5])
    pairs, own = torch.cat([images[0, :2], images[1, :5]]), torch.cat([labels[0, :2], labels[1, :5]])
    every, logits = ensemble.gradient(images, labels)
    some, found = ensemble.gradient(pairs, own, counts)
    torch.testing.assert_close(some, torch.cat([every[0, :2], every[1, :5]]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found, torch.cat([logits[0, :2], logits[1, :5]]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ensemble.logits(pairs, counts), found, rtol=1e-9, atol=1e-12)
    only_second, _ = ensemble.gradient(pairs[2:], own[2:], torch.tensor([0, 5]))
    torch.testing.assert_close(only_second, some[2:], rtol=1e-9, atol=1e-12)


def options(name: str) -> str:
    short = {"pgd": "steps=3", "apgd": "steps=5", "apgd-t": "steps=5", "fab-t": "steps=5", "square": "queries=30"}
    short |= {"cw": "binary_search_steps=4, steps=30, constant=1.0", "fmn": "steps=20"}
    bound = ["epsilon=0.1"] if ATTACKS.get(name).bounded else []
    return f"{name}({', '.join([*bound, *([short[name]] if name in short else [])])})"


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "autoattack"])  # its parts are among them
def test_every_attack_takes_an_ensemble_for_a_network(name: str) -> None:
    attack, parts = ATTACKS.parse(options(name)), sharp(engines(True))
    images, _ = inputs(20)
    for how in HOWS:
        ensemble = Ensemble(parts, how, GROUPS)
        labels = ensemble.logits(images).argmax(-1)
        attacked = attack(ensemble, images, labels)
        if attack.bounded:
            assert norm_of((attacked.clipped - images).flatten(0, 1), attack.norm).amax() <= 0.1 + 1e-12
        assert attacked.success(ensemble, labels).any()
        alone = attack(Ensemble(parts, how, GROUPS[1:]), images[1], labels[1])
        torch.testing.assert_close(alone.clipped[0], attacked.clipped[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("how", HOWS)
def test_many_times_one_network_is_that_network(how: str) -> None:
    part, (images, labels) = sharp(engines(True))[0], inputs(20)
    attack = ATTACKS.parse("pgd(steps=5, epsilon=0.1)")
    own, many = (attack(networks, images[0], labels[0]) for networks in (part, Ensemble(part, how, [(0, 0, 0)])))
    torch.testing.assert_close(many.clipped, own.clipped, rtol=1e-9, atol=1e-9)


def test_what_does_not_belong_together_is_refused() -> None:
    parts = engines(True)
    with pytest.raises(InputError, match="one device, dtype and number of classes, got 2 kinds"):
        Ensemble([parts[0], engines(True, "fp32")[1]])
    with pytest.raises(InputError, match=r"how .*expected one of logits, probabilities, losses"):
        Ensemble(parts, "votes")
    for groups in ([], [()], [(0, 1), (2,)]):
        with pytest.raises(InputError, match="groups of one size"):
            Ensemble(parts, groups=groups)
    for place in (4, -1, True):
        with pytest.raises(InputError, match="places from 0 to 3"):
            Ensemble(parts, groups=[(0, place)])
