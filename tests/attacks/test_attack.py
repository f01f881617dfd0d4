"""FGSM over a group: its definition, and parity with the Adversarial Robustness Toolbox and foolbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atras.attacks import ATTACKS, FGSM, Signed, Start
from atras.data import load, pixels
from atras.engines import StackEngine
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Cotangent, Member, Spec, random_targets

CPU = torch.device("cpu")
EPSILON = 0.05


@pytest.fixture(scope="module")
def victim() -> StackEngine:
    """One candidate with a convolutional stem, trained for some steps on digits enlarged to 16x16."""
    engine = StackEngine(Spec((1, 16, 16), 10, "conv2"), [Member(Candidate((24, 48)), 0)], Protocol(), CPU)
    engine.begin_phase("train")
    images, labels = pictures()
    for start in range(0, 512, 64):
        engine.step(images[start : start + 64], labels[start : start + 64])
    return engine


def pictures() -> tuple[Tensor, Tensor]:
    data = load("digits")
    return pixels(data.train.images, torch.float32).repeat_interleave(2, 2).repeat_interleave(2, 3), data.train.labels


class Victim(nn.Module):
    """The victim as the other libraries want it."""

    def __init__(self, engine: StackEngine) -> None:
        super().__init__()
        self.engine = engine
        self.stand_in = nn.Parameter(torch.zeros(()))  # both libraries look for a parameter's device

    def forward(self, images: Tensor) -> Tensor:
        return self.engine.networks[0].logits(self.engine.get_parameters(0), images)


def with_art(network: Victim, images: Tensor, labels: Tensor, gradients: Tensor | None) -> Tensor:
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(reduction="sum"), (1, 16, 16), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    if gradients is not None:
        classifier.loss_gradient = lambda *_, **__: gradients.numpy().copy()
    attack = FastGradientMethod(classifier, eps=EPSILON, batch_size=len(images))
    return torch.from_numpy(attack.generate(images.numpy(), y=labels.numpy()))


def with_foolbox(network: Victim, images: Tensor, labels: Tensor, gradients: Tensor | None) -> Tensor:
    import eagerpy
    import foolbox

    attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    if gradients is not None:
        attack.value_and_grad = lambda loss, x: (loss(x), eagerpy.astensor(gradients))
    model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
    _, clipped, _ = attack(model, images, labels, epsilons=EPSILON)
    return clipped.detach()


PEERS: dict[str, Callable[..., Tensor]] = {"art": with_art, "foolbox": with_foolbox}
old_peers = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # in their imports


@old_peers
@pytest.mark.parametrize("peer", PEERS)
def test_same_gradient_gives_the_peers_images_bitwise(victim: StackEngine, peer: str) -> None:
    images, labels = (part[:100] for part in pictures())
    gradients, _ = victim.gradient(images, labels)
    gradients[0, :, :, :3] = 0.0
    ours = FGSM(EPSILON)(fixed_gradient(victim, gradients, labels), images, labels).clipped[0]
    assert torch.equal(ours, PEERS[peer](Victim(victim), images, labels, gradients[0]))


@old_peers
@pytest.mark.parametrize("peer", PEERS)
def test_end_to_end_pixels_equal_the_peers_but_where_the_gradient_is_rounding(victim: StackEngine, peer: str) -> None:
    images, labels = (part[:400] for part in pictures())
    gradients, _ = victim.gradient(images, labels)
    different = FGSM(EPSILON)(victim, images, labels).clipped[0] != PEERS[peer](Victim(victim), images, labels, None)
    assert different.float().mean() <= 0.001
    relative = gradients[0].abs() / gradients[0].abs().amax((1, 2, 3), keepdim=True)
    assert (relative[different] < 1e-5).all()


def fixed_gradient(engine: StackEngine, gradients: Tensor, labels: Tensor) -> Any:
    """The engine with a given gradient in place of its own."""

    class Fixed:
        def gradient(self, images: Tensor, cotangent: Cotangent) -> tuple[Tensor, Tensor]:
            assert torch.equal(cotangent, labels)
            return gradients, engine.logits(images)

    return Fixed()


def two_members() -> StackEngine:
    """Two members of two classes that differ in the sign of the last layer, so that their gradients are opposite."""
    engine = StackEngine(Spec((1, 4, 4), 2), [Member(Candidate((8,)), s) for s in (0, 1)], Protocol(), CPU)
    first = engine.get_parameters(0)
    half = first["logits.weight"][:1]
    engine.set_parameters(0, first | {"logits.weight": torch.cat([half, -half])})
    engine.set_parameters(1, first | {"logits.weight": torch.cat([-half, half])})
    return engine


def test_members_with_opposite_gradients_on_one_shared_image_get_opposite_perturbations() -> None:
    attacked = FGSM(EPSILON)(two_members(), torch.full((3, 1, 4, 4), 0.5), torch.tensor([0, 1, 0]))
    assert attacked.signs.any()
    assert torch.equal(attacked.signs[0], -attacked.signs[1])


def test_epsilon_zero_is_the_identity_and_any_epsilon_stays_in_bounds(victim: StackEngine) -> None:
    images, labels = (part[:50] for part in pictures())
    assert torch.equal(FGSM(0.0)(victim, images, labels).clipped[0], images)
    for epsilon in (1 / 255, 8 / 255, 0.3, 1.0):
        attacked = FGSM(epsilon)(victim, images, labels)
        moved = attacked.clipped - images
        one_ulp = torch.finfo(torch.float32).eps
        assert attacked.clipped.min() >= 0
        assert attacked.clipped.max() <= 1
        assert moved.abs().max() <= np.float32(epsilon) + one_ulp
        torch.testing.assert_close(attacked.raw.clamp(0, 1), attacked.clipped, rtol=0, atol=0)


def test_the_label_is_the_models_own_or_the_true_one(victim: StackEngine) -> None:
    images, labels = (part[:200] for part in pictures())
    predicted = FGSM(EPSILON, "predicted")(victim, images, labels)
    assert torch.equal(predicted.labels, predicted.clean_logits.argmax(-1))
    assert torch.equal(FGSM(EPSILON, "true")(victim, images, labels).labels[0], labels)
    assert not torch.equal(predicted.labels[0], labels)


def loss(engine: StackEngine, images: Tensor, labels: Tensor) -> Tensor:
    out = engine.logits(images)[0]
    return nn.functional.cross_entropy(out, labels.expand(1, len(images))[0], reduction="none")


@pytest.mark.parametrize("target", ["none", "class:3", "least-likely", "random"])
def test_untargeted_attacks_ascend_and_targeted_ones_descend_their_loss(victim: StackEngine, target: str) -> None:
    images, labels = (part[:200] for part in pictures())
    targets = random_targets(0, "test", labels, torch.arange(10)) if target == "random" else None
    attacked: Signed = FGSM(0.01, "true", target)(victim, images, labels, start=Start(targets=targets))
    if target == "class:3":
        assert (attacked.labels == 3).all()
    if target == "least-likely":
        assert torch.equal(attacked.labels, attacked.clean_logits.argmin(-1))
    change = loss(victim, attacked.clipped[0], attacked.labels) - loss(victim, images, attacked.labels)
    assert (change > 0 if target == "none" else change < 0).float().mean() > 0.95


def test_success_is_a_wrong_prediction(victim: StackEngine) -> None:
    images, labels = (part[:60] for part in pictures())
    attacked = FGSM(0.3)(victim, images, labels)
    wrong = victim.logits(attacked.clipped).argmax(-1) != labels
    assert torch.equal(attacked.success(victim, labels), wrong)
    assert wrong.any()


def test_normalised_images_and_missing_targets_are_refused(victim: StackEngine) -> None:
    images, labels = (part[:4] for part in pictures())
    with pytest.raises(InputError, match="expected pixels from 0 to 1"):
        FGSM(EPSILON)(victim, images * 2 - 1, labels)
    with pytest.raises(InputError, match="expected targets"):
        FGSM(EPSILON, target="random")(victim, images, labels)


@pytest.mark.parametrize(
    ("attack", "classes", "told"),
    [
        ("apgd", 2, 0),
        ("apgd(loss=margin)", 2, 0),
        ("apgd(loss=dlr)", 2, 1),
        ("apgd(loss=dlr)", 3, 0),
        ("apgd-t", 1, 1),
        ("apgd-t", 2, 1),
        ("apgd-t", 3, 1),
        ("apgd-t", 4, 0),
        ("apgd-t(loss=margin)", 3, 0),
        ("autoattack", 3, 1),
        ("autoattack(version=rand)", 2, 1),
        ("autoattack", 10, 0),
        ("pgd(loss=dlr)", 2, 1),
        ("pgd(loss=dlr)", 3, 0),
        ("pgd(loss=margin)", 2, 0),
    ],
)
def test_a_difference_of_logits_ratio_needs_enough_classes(attack: str, classes: int, told: int) -> None:
    cautions = ATTACKS.parse(attack).cautions(classes)
    assert len(cautions) == told
    assert all(f"with {classes} classes" in text for text in cautions)
