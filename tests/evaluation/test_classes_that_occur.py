"""Attacks aim at classes that training images have: none at what only the numbering has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from atras.attacks import FGSM, PGD, Attack, DeepFool
from atras.data import Dataset, Split, pixels
from atras.engines import StackEngine
from atras.errors import InputError
from atras.evaluation import Evaluator
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec
from atras.testing import make_step_inputs

CPU = torch.device("cpu")
MEMBERS = [Member(Candidate((8,)), 0), Member(Candidate((6,)), 1)]
ATTACKS = [FGSM(0.1, target="least-likely"), FGSM(0.1, target="random"), PGD(0.1, target="least-likely", steps=2)]


def data_of(places: Tensor) -> Dataset:
    """Data whose labels are these numbers, which leave out some."""
    images, labels = make_step_inputs(80, (1, 4, 4), classes=len(places))
    part = Split(images, places[labels])
    return Dataset("gaps", part, part, int(places.max()) + 1)


class Recording(StackEngine):
    """An engine that keeps the labels whose gradients it was asked for."""

    asked: list[Tensor]

    def gradient(self, images: Tensor, cotangent: Any) -> tuple[Tensor, Tensor]:
        self.asked.append(cotangent)
        return super().gradient(images, cotangent)


def evaluator_of(data: Dataset) -> Evaluator:
    """Networks that have learned that the numbers left out are the least likely classes."""
    protocol = Protocol(learning_rate=0.05, precision="fp32")
    engine = Recording(Spec((1, 4, 4), data.classes), MEMBERS, protocol, CPU)
    engine.asked = []
    engine.begin_phase("train")
    for _ in range(20):
        engine.step(pixels(data.train.images, torch.float32), data.train.labels)
    return Evaluator(engine, data, protocol)


def attacked(evaluator: Evaluator, attack: Attack) -> Tensor:
    ((chunk, images, labels),) = evaluator.chunks("test")
    return evaluator.attack(attack, "test", chunk, images, labels).labels


@pytest.mark.parametrize("places", [torch.tensor([1, 2, 3]), torch.tensor([0, 2, 5])])
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_targets_occur(attack: Attack, places: Tensor) -> None:
    evaluator = evaluator_of(data_of(places))
    aims = attacked(evaluator, attack)
    assert torch.isin(aims, places).all()
    own = evaluator.data.test.labels
    assert attack.target != "random" or not (aims == own).any()


def test_the_protocols_own_attack_aims_at_classes_that_occur() -> None:
    places = torch.tensor([1, 2, 3])
    evaluator = evaluator_of(data_of(places))
    evaluator.protocol = evaluator.protocol.replace(target="least-likely")
    evaluator.signs_of("train")
    (aim,) = evaluator.networks.asked  # type: ignore[attr-defined]
    logits = evaluator.networks.logits(pixels(evaluator.data.train.images, torch.float32))
    assert torch.isin(aim(logits), places).all()
    assert not torch.isin(logits.argmin(-1), places).all()  # there is something to be left out


def test_deepfool_tries_no_class_that_does_not_occur() -> None:
    places = torch.tensor([0, 2, 5])
    evaluator = evaluator_of(data_of(places))
    attacked(evaluator, DeepFool())
    # Each cotangent is that of the difference of two logits.
    asked = torch.cat([each.flatten(0, -2) for each in evaluator.networks.asked])  # type: ignore[attr-defined]
    assert torch.equal(asked.abs().sum(0).nonzero()[:, 0], places)


def test_data_without_gaps_leave_all_classes_open() -> None:
    assert evaluator_of(data_of(torch.tensor([0, 1, 2]))).classes is None


def test_a_target_without_training_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"target \(='class:1'\): expected a class that training images have, 0, 2, 5"):
        Protocol(target="class:1").check_classes([0, 2, 5])
    with pytest.raises(InputError, match=r"target \(='random'\): expected training images of at least 2 classes"):
        Protocol(target="random").check_classes([3])
