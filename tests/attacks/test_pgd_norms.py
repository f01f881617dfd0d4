"""PGD in l2 and along other losses: exact on linear networks, by hand, and in its ball."""

from __future__ import annotations

import pytest
import torch

from atras.attacks import ATTACKS, PGD, Start, starts
from atras.attacks.norms import norm_of
from atras.errors import InputError
from atras.networks import Objective
from stand_ins import SHAPE, Faint, Lives, StoppedError, problem

LOSSES = ("ce", "margin", "dlr")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("norm", "classes"), [("l2", 2), ("l2", 4), ("linf", 2), ("linf", 4)])
def test_linear_networks_are_fooled_only_where_they_can_be_and_there(norm: str, classes: int, loss: str) -> None:
    networks, x, labels = problem(classes)
    distances = networks.distances(x, labels, norm)
    epsilon = min(float(distances.median()), 0.39)  # the bounds are 0.4 away
    fooled = PGD(epsilon, norm=norm, loss=loss)(networks, x, labels).success(networks, labels)
    sure = (distances < 0.95 * epsilon) | (distances > 1.02 * epsilon)
    possible = distances < epsilon
    assert not (fooled & ~possible)[sure].any()
    if classes == 2:
        assert torch.equal(fooled[sure], possible[sure])
    else:  # an untargeted loss may follow the wrong class
        assert (fooled & possible).sum() >= 0.6 * possible.sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_point_stays_in_the_ball_and_in_range(loss: str) -> None:
    networks, _, _ = problem(3)
    x = torch.rand(12, *SHAPE, dtype=torch.float64).mul(1.4).sub(0.2).clamp(0, 1)
    labels = networks.logits(x).argmax(-1)
    clipped = PGD(0.7, norm="l2", loss=loss, restarts=2)(networks, x, labels).clipped
    change = norm_of((clipped - x).flatten(0, 1), "l2")
    assert clipped.min() >= 0
    assert clipped.max() <= 1
    assert 0.6 < change.max() <= 0.7 * (1 + 1e-12)
    assert torch.equal(PGD(0.0, norm="l2", loss=loss)(networks, x, labels).clipped, x.expand(3, *x.shape))


def test_an_l2_step_is_along_the_gradient_and_of_the_given_length() -> None:
    networks, x, labels = problem(2)
    (attack,) = (PGD(0.3, norm="l2", steps=1, step_size=0.1, random_start=False),)
    change = attack(networks, x, labels).clipped - x
    right = networks.logits(x).argmax(-1) == labels
    other = 1 - labels
    members = torch.arange(3)[:, None]
    along = networks.weights[members, other] - networks.weights[members, labels]
    expected = 0.1 * along / along.flatten(2).norm(dim=2)[..., None, None, None]
    assert right.all()
    torch.testing.assert_close(change, expected)
    assert attack.length(attack.strength) == 0.1
    assert PGD(norm="l2", steps=10).length(0.3) == pytest.approx(0.075)


def test_an_l2_start_is_at_epsilon_and_differs_from_one_restart_to_the_next() -> None:
    networks, x, labels = problem(2)
    seen: list[torch.Tensor] = []
    gradient = networks.gradient
    networks.gradient = lambda x, *rest: seen.append(x) or gradient(x, *rest)  # type: ignore[method-assign, func-returns-value]
    PGD(0.2, norm="l2", steps=1, restarts=2)(networks, x, labels)
    for start in seen:
        torch.testing.assert_close(norm_of((start - x).flatten(0, 1), "l2"), torch.full((120,), 0.2).double())
    assert not torch.equal(*seen)


def test_small_gradients_lead_as_far_as_large_ones_and_nan_ones_nowhere() -> None:
    networks, x = Faint(2, 2), 0.4 + 0.2 * torch.rand(4, *SHAPE)
    labels = networks.logits(x).argmax(-1)
    attacked = PGD(0.3, norm="l2", steps=1, step_size=0.1, random_start=False)(networks, x, labels)
    change = attacked.clipped - x
    torch.testing.assert_close(change.flatten(2).norm(dim=2), torch.full((2, 4), 0.1))
    assert (change[..., 0, :2] == 0).all()
    assert attacked.nan_gradients.tolist() == attacked.zero_gradients.tolist() == [4, 4]


@pytest.mark.parametrize("loss", ["margin", "dlr"])
@pytest.mark.parametrize("target", ["none", "class:1", "least-likely", "random"])
def test_the_point_kept_is_the_one_whose_own_loss_came_furthest(loss: str, target: str) -> None:
    networks, x, labels = problem(4)
    attack = PGD(0.05, target=target, loss=loss, steps=3, restarts=2)
    start = Start(targets=(labels[0] + 1) % 4, draw=starts(networks, x, "pgd"))
    seen: list[torch.Tensor] = []
    gradient = networks.gradient
    networks.gradient = lambda x, *rest: seen.append(x) or gradient(x, *rest)  # type: ignore[method-assign, func-returns-value]
    attacked = attack(networks, x, labels, start=start)
    value = Objective(loss, attacked.labels).values

    def of(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = networks.logits(images)
        reached = (logits.argmax(-1) == attacked.labels) == (target != "none")
        return reached, attack.direction * value(logits)

    reached, kept = of(attacked.clipped)
    for point in seen:
        before, values = of(point)
        assert (reached | ~before).all()
        assert (values <= kept + 1e-9)[before == reached].all()
    assert len(seen) == 6


@pytest.mark.parametrize("text", ["pgd(norm=l2, epsilon=0.3, restarts=2, loss=dlr)", "pgd(epsilon=0.1, loss=margin)"])
def test_it_goes_on_where_it_was_stopped(text: str) -> None:
    networks, x, labels = problem(4, images=8)
    attack = ATTACKS.parse(text)
    whole, lives = attack(networks, x, labels), Lives(3)
    while True:
        try:
            cut = attack(networks, x, labels, start=Start(progress=lives))
            break
        except StoppedError:
            pass
    assert lives.times > 2
    assert torch.equal(cut.clipped, whole.clipped)


def test_another_norm_needs_an_epsilon_and_steps_of_its_own_size() -> None:
    with pytest.raises(InputError, match="expected an epsilon, as the run's is one in linf"):
        PGD(norm="l2").at(0.05)
    assert PGD(1.5, norm="l2", step_size=2.0).at(0.05).strength == 1.5
    with pytest.raises(InputError, match="step_size"):
        PGD(step_size=2.0)
    for wrong in ("pgd(norm=l1)", "pgd(loss=square)", "random-fgsm(norm=l2)", "random-fgsm(loss=dlr)"):
        with pytest.raises(InputError):
            ATTACKS.parse(wrong)


def test_another_loss_costs_the_same() -> None:
    assert PGD(steps=7, restarts=2).cost(10) == (2, 14)
    assert PGD(steps=7, restarts=2, loss="margin").cost(10) == (2, 14)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_members_of_one_seed_may_have_images_of_their_own(norm: str) -> None:
    networks, x, labels = problem(3, images=5)
    networks.members = list(networks.members[:1]) * 3  # whose starts are drawn once
    attack, own = PGD(0.2, norm=norm, steps=3), torch.stack([x, x.flip(0), 1 - x])
    clipped = attack(networks, own, networks.logits(own).argmax(-1)).clipped
    torch.testing.assert_close(clipped[0], attack(networks, x, labels).clipped[0])
    assert norm_of((clipped - own).flatten(0, 1), norm).max() <= 0.2 * (1 + 1e-12)
