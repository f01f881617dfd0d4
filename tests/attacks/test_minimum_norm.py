"""Attacks that look for the smallest change: exact on linear networks, and as the papers have them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from atras.attacks import ATTACKS, CW, FMN
from atras.attacks.norms import projected
from atras.errors import InputError
from atras.networks import Objective
from stand_ins import SHAPE, Linear, problem

NORMS = ("linf", "l2", "l1")


SMALLEST = [("fmn", norm, classes) for norm in NORMS for classes in (2, 5)]
SMALLEST += [("cw(steps=300)", "l2", classes) for classes in (2, 5)]


@pytest.mark.parametrize(("name", "norm", "classes"), SMALLEST)
def test_the_smallest_change_of_linear_networks_is_found(name: str, norm: str, classes: int) -> None:
    networks, x, labels = problem(classes, images=20)
    distances = networks.distances(x, labels, norm)
    inside = distances < 0.35  # the bounds, 0.4 away, are not touched then
    attack = ATTACKS.parse(name if name.startswith("cw") else f"fmn(norm={norm})")
    attacked = attack(networks, x, labels)
    found = attacked.distances(norm)
    assert inside.float().mean() > 0.2
    assert attacked.success(networks, labels)[inside].all()
    assert (found >= distances * (1 - 1e-9))[inside].all()
    assert (found / distances)[inside].median() <= (1.02 if name == "fmn" else 1.1)  # the rate of `cw` is its precision
    if name == "fmn" and classes == 2:  # of more classes it may follow the wrong one
        assert (found / distances)[inside].max() <= 1.1


def test_fmn_leaves_a_corner_of_black_and_white_pixels() -> None:
    """There most of a gradient leads out of the range; a step that is cut off afterwards does not come anywhere."""
    networks = Linear(3, 3)
    x = (torch.rand(20, *SHAPE, dtype=torch.float64) > 0.5).double()
    labels = networks.logits(x).argmax(-1)
    assert FMN(norm="l2")(networks, x, labels).success(networks, labels).float().mean() > 0.9


def textbook(network: nn.Module, x: Tensor, label: int, steps: int, constant: float, confidence: float) -> Tensor:
    """The nearest image that fools among those that PyTorch's Adam meets, or the image itself."""
    origin = torch.atanh((2 * x - 1) * (1 - 1e-6))
    w = origin.clone().requires_grad_()
    adam = torch.optim.Adam([w], lr=0.05)
    best, least = x, torch.inf
    for _ in range(steps):
        image = (torch.tanh(w) + 1) / 2
        logits = network(image)[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        gap = logits[label] - others.max()
        distance = (image - x).square().sum()
        if gap < -confidence and distance < least:
            best, least = image.detach(), float(distance.detach())
        adam.zero_grad()
        (distance + constant * (gap + confidence).clamp(min=0)).backward()
        adam.step()
    return best


@pytest.mark.parametrize("confidence", [0.0, 0.3])
def test_cw_takes_the_steps_of_the_textbook(confidence: float) -> None:
    networks, x, labels = problem(4, images=6)
    attack = CW(confidence=confidence, steps=19, binary_search_steps=1, learning_rate=0.05, constant=3.0)
    ours = attack(networks, x, labels).clipped
    for member in range(3):
        layer = nn.Linear(25, 4).double()
        layer.weight.data = networks.weights[member].flatten(1)
        layer.bias.data = -0.5 * networks.weights[member].flatten(1).sum(1)
        network = nn.Sequential(nn.Flatten(), layer)
        for image in range(6):
            theirs = textbook(network, x[image : image + 1], int(labels[member, image]), 19, 3.0, confidence)
            torch.testing.assert_close(ours[member, image : image + 1], theirs, rtol=0, atol=1e-10)
    moved = ours != x
    assert moved.any()
    leads = Objective("margin", labels).values(networks.logits(ours))
    assert (leads > confidence)[moved.flatten(2).any(2)].all()


def test_cws_constants_are_halved_between_what_was_enough_and_what_was_not() -> None:
    networks, x, labels = problem(3, images=6)
    few, more = (
        CW(steps=60, binary_search_steps=searches, learning_rate=0.05)(networks, x, labels).distances("l2")
        for searches in (6, 12)
    )
    reached = few > 0
    assert reached.any()
    assert (more[reached] <= few[reached]).all()
    assert (more[reached] < few[reached]).float().mean() > 0.3
    assert (more > 0).sum() >= reached.sum()


@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_tells_how_far_it_went(norm: str) -> None:
    networks, x, labels = problem(3, images=4)
    attacked = FMN(steps=5)(networks, x, labels)
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    expected = torch.linalg.vector_norm((attacked.clipped - x).flatten(2), ord=order, dim=2)
    torch.testing.assert_close(attacked.distances(norm), expected)


def test_they_have_no_epsilon_and_keep_what_they_cannot_move() -> None:
    for name in ("cw", "fmn"):
        attack = ATTACKS.parse(name).at(0.1)
        assert attack.spec.attack == name
        assert attack.spec.epsilon is None
        assert not attack.bounded
        with pytest.raises(InputError, match="unknown option"):
            ATTACKS.parse(f"{name}(epsilon=0.1)")
    with pytest.raises(InputError, match="unknown option"):
        ATTACKS.parse("cw(norm=linf)")
    networks, x, labels = problem(3)
    networks.weights[0] = 0.0  # class 0, and no gradient
    labels = networks.logits(x).argmax(-1)
    for attack in (CW(steps=20, binary_search_steps=2), FMN(steps=20), FMN(steps=20, norm="l2")):
        clipped = attack(networks, x, labels).clipped
        assert torch.equal(clipped[0], x)
        assert (clipped[1:] != x).flatten(2).any(2).float().mean() > 0.5


def test_what_is_done_costs_nothing_more() -> None:
    networks, x, labels = problem(3, images=10)
    networks.weights[0] = 0.0
    labels = networks.logits(x).argmax(-1)
    FMN(steps=50)(networks, x, labels)
    assert networks.gradients.tolist() == [10, 500, 500]
    networks.gradients.zero_()
    CW(steps=50, binary_search_steps=4)(networks, x, labels)
    assert networks.gradients[0] == 4 * 6 * 10  # at the first check of each search
    assert (networks.gradients[1:] <= 4 * 50 * 10).all()


def test_a_label_of_their_own_is_left_too() -> None:
    networks, x, labels = problem(3)
    wrong = (labels[:1] + 1) % 3
    for name in ("fmn", "cw(steps=30, binary_search_steps=2)"):
        base, _, rest = name.partition("(")
        own = ATTACKS.parse(f"{base}(label_source=predicted{', ' + rest if rest else ')'}")(networks, x, wrong)
        assert torch.equal(own.labels, labels)
        assert torch.equal(ATTACKS.parse(name)(networks, x, wrong).clipped[0], x)


@pytest.mark.parametrize("norm", NORMS)
def test_each_pair_may_have_a_ball_of_its_own(norm: str) -> None:
    clean = torch.rand(9, *SHAPE, dtype=torch.float64)
    points = clean + 0.4 * torch.randn(9, *SHAPE, dtype=torch.float64)
    radii = torch.linspace(0, 3, 9, dtype=torch.float64)
    together = projected(points, clean, radii, norm, (0.0, 1.0))
    for place, radius in enumerate(radii.tolist()):
        one = slice(place, place + 1)
        torch.testing.assert_close(together[one], projected(points[one], clean[one], radius, norm, (0.0, 1.0)))
