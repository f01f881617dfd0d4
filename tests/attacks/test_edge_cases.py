"""What holds for every attack: any number of classes and channels, networks that tell nothing, any order, any stop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from atras.attacks import ATTACKS, Attack, Start
from atras.attacks.norms import norm_of
from atras.kernels import pad_pairs, unpad_pairs
from atras.registry import name_of
from stand_ins import Faint, Linear, Lives, StoppedError

L2, L1 = "norm=l2, epsilon=0.4", "norm=l1, epsilon=0.5"
QUICK = [
    "fgsm",
    "random-fgsm",
    "pgd(steps=4, restarts=2)",
    f"pgd(steps=4, {L2}, loss=margin)",
    "pgd(steps=4, loss=dlr, target=least-likely)",
    "apgd(steps=8)",
    f"apgd(steps=8, {L2}, loss=dlr)",
    f"apgd(steps=9, {L1}, loss=margin)",
    "apgd-t(steps=4, targets=2)",
    f"apgd-t(steps=6, targets=2, {L1})",
    "fab-t(steps=4, targets=2)",
    f"fab-t(steps=4, targets=2, {L2})",
    f"fab-t(steps=4, targets=2, {L1})",
    "kl(steps=4)",
    "square(queries=12)",
    f"square(queries=12, {L2})",
    "deepfool(steps=4)",
    "deepfool(steps=4, norm=linf)",
    "cw(steps=8, binary_search_steps=3, learning_rate=0.1)",
    "fmn(steps=8)",
    "fmn(steps=8, norm=l2)",
    "fmn(steps=8, norm=l1)",
    "random-signs",
]
SLOW = ["autoattack"]
"""Whose number of queries is fixed."""

every = pytest.mark.parametrize("text", QUICK)
every_even_slow = pytest.mark.parametrize("text", QUICK + SLOW)


class RowByRow(Linear):
    """The same to the last bit whatever stands beside an image."""

    def _scores(self, images: Tensor) -> Tensor:
        return ((images - 0.5)[:, :, None] * self.weights[:, None]).flatten(3).sum(3)

    def gradient(self, images: Tensor, cotangent: object, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits = self.logits(images, counts)
        wanted = cotangent(logits) if callable(cotangent) else cotangent
        assert isinstance(wanted, Tensor)
        if not wanted.is_floating_point():
            others = logits.scatter(-1, wanted.expand(logits.shape[:-1])[..., None], -torch.inf).softmax(-1)
            wanted = others.scatter(-1, wanted.expand(logits.shape[:-1])[..., None], -1.0)
        if counts is None:
            return self._back(wanted), logits
        return unpad_pairs(self._back(pad_pairs(wanted, counts)), counts), logits

    def _back(self, wanted: Tensor) -> Tensor:
        return (wanted[..., None, None, None] * self.weights[:, None]).sum(2)


def made(text: str) -> Attack:
    return ATTACKS.parse(text).at(0.08)


def problem(classes: int, channels: int = 1, images: int = 6) -> tuple[RowByRow, Tensor, Tensor]:
    networks = RowByRow(2, classes, (channels, 4, 5))
    x = torch.rand(images, channels, 4, 5, dtype=torch.float64).mul(1.2).sub(0.1).clamp(0, 1)
    return networks, x, networks.logits(x).argmax(-1)


def drawn(places: Sequence[int]) -> Start:
    """Draws of images at these places among some."""

    def draw(number: int, shape: Sequence[int] | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        own = (1, 4, 5) if shape is None else shape
        return 2 * torch.rand((12, *own), generator=generator, dtype=torch.float64)[list(places)] - 1

    return Start(draw=draw)


def test_every_attack_is_here() -> None:
    assert {name_of(text) for text in QUICK + SLOW} == set(ATTACKS)


@every
@pytest.mark.parametrize(("classes", "channels"), [(2, 1), (3, 3), (1000, 1)])
def test_any_number_of_classes_and_channels(text: str, classes: int, channels: int) -> None:
    networks, x, labels = problem(classes, channels)
    labels = labels.clone()
    labels[0, 0] = (labels[0, 0] + 1) % classes  # one that is misclassified
    attack = made(text)
    attacked = attack(networks, x, labels)
    assert attacked.clipped.shape == (2, *x.shape)
    assert attacked.clipped.min() >= 0
    assert attacked.clipped.max() <= 1
    change = norm_of((attacked.clipped - x).flatten(0, 1), attack.norm)
    assert change.max() > 0
    if attack.bounded:
        assert change.max() <= attack.strength * (1 + 1e-12)


@every_even_slow
def test_networks_that_tell_nothing_stay_as_they_are_and_disturb_no_other(text: str) -> None:
    networks, x, _ = problem(3, images=4)
    whole = RowByRow(4, 3, x.shape[1:])
    whole.weights[0] = networks.weights[0]
    whole.weights[1] = 0.0  # constant
    whole.weights[2] = torch.nan
    whole.weights[3] = torch.inf
    whole.members = [networks.members[0]] * 4
    networks.members, networks.weights = networks.members[:1], networks.weights[:1]
    networks.queries = networks.queries[:1]
    labels = whole.logits(x).argmax(-1)
    clipped = made(text)(whole, x, labels).clipped
    assert clipped.isfinite().all()
    assert clipped.min() >= 0
    assert clipped.max() <= 1
    alone = made(text)(networks, x, labels[:1]).clipped
    assert torch.equal(clipped[:1], alone)


@every_even_slow
def test_epsilon_zero_is_the_identity(text: str) -> None:
    attack = made(text)
    if not attack.bounded:
        return
    networks, x, labels = problem(3)
    still = type(attack)(epsilon=0.0, norm=attack.norm) if attack.norm != "linf" else type(attack)(epsilon=0.0)
    assert torch.equal(still(networks, x, labels).clipped, x.expand(2, *x.shape))


@every
def test_the_order_of_the_images_does_not_matter(text: str) -> None:
    networks, x, labels = problem(4, images=12)
    order = [7, 2, 11, 0, 5, 9]
    whole = made(text)(networks, x, labels, start=drawn(range(12))).clipped
    part = made(text)(networks, x[order], labels[:, order], start=drawn(order)).clipped
    assert torch.equal(part, whole[:, order])


@every
def test_it_goes_on_where_it_was_stopped(text: str) -> None:
    networks, x, labels = problem(4)
    attack, lives, stopped = made(text), Lives(1), 0
    whole = attack(networks, x, labels)
    while True:
        try:
            cut = attack(networks, x, labels, start=Start(progress=lives))
            break
        except StoppedError:
            stopped += 1
    assert stopped > 0 or "fgsm" in text or text == "random-signs"  # which are one step
    assert torch.equal(cut.clipped, whole.clipped)


FOLLOWED = [
    ("pgd", "l2"),
    ("apgd", "linf"),
    ("apgd", "l2"),
    ("apgd", "l1"),
    ("fmn", "linf"),
    ("fmn", "l2"),
    ("fmn", "l1"),
]
"""Attacks that follow a gradient's direction, and norms."""


@pytest.mark.parametrize(("name", "norm"), FOLLOWED)
def test_gradients_however_small_show_the_way_and_a_nan_pixel_does_not_end_it(name: str, norm: str) -> None:
    networks, x = Faint(2, 2), 0.4 + 0.2 * torch.rand(10, 1, 5, 5)
    labels = networks.logits(x).argmax(-1)
    epsilon = 1.5 * float(networks.distances(x, labels, norm).max())
    attack = ATTACKS.parse(f"{name}(norm={norm})" if name == "fmn" else f"{name}(norm={norm}, epsilon={epsilon})")
    assert attack(networks, x, labels).success(networks, labels).all()


SHORTEST = ["cw(steps=60, binary_search_steps=2, learning_rate=0.05, constant=10)", "deepfool", "deepfool(norm=linf)"]
SHORTEST += [f"fab-t(norm={norm}, epsilon=100)" for norm in ("l2", "l1")] + ["fab-t(epsilon=1)"]
"""Those that follow its length too."""


@pytest.mark.parametrize("text", SHORTEST)
def test_a_nan_pixel_does_not_end_the_search_for_the_smallest_change(text: str) -> None:
    networks, x = Faint(2, 2, scale=1.0), 0.4 + 0.2 * torch.rand(6, 1, 5, 5)
    labels = networks.logits(x).argmax(-1)
    assert ATTACKS.parse(text)(networks, x, labels).success(networks, labels).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_goes_on_from_a_start_whose_logits_are_not_known(norm: str) -> None:
    networks, x, labels = problem(3, images=12)
    logits, asked = networks.logits, []

    def first_nan(images: Tensor, counts: Tensor | None = None) -> Tensor:
        found = logits(images, counts)
        if counts is not None:
            asked.append(images)
        return torch.full_like(found, torch.nan) if len(asked) == 1 and counts is not None else found

    networks.logits = first_nan  # type: ignore[method-assign]
    attack = ATTACKS.parse(f"square(norm={norm}, epsilon={0.3 if norm == 'linf' else 1.0}, queries=100)")
    attacked = attack(networks, x, labels)
    assert attacked.clipped.isfinite().all()
    assert (logits(attacked.clipped).argmax(-1) != labels).float().mean() > 0.5
