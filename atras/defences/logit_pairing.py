"""Adversarial logit pairing: an image and its adversarial image are to have one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.attacks import PGD, Attack
from atras.checks import number

from .anew import Paired, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, repr=False)
class LogitPairing(Paired):
    """The mean cross-entropy of images and adversarial images + weight x the mean squared difference of their logits.

    It was published as a defence and broken within months (Engstrom, Ilyas, Athalye 2018): attack it with many steps.

    Args:
        weight: of the pairing (lambda of the paper).
        attack: of training, untargeted, at the true label.
        start: see `Anew`.

    Source: Kannan, Kurakin, Goodfellow 2018, "Adversarial logit pairing", sections 3 and 4.
    """

    weight: float = 0.5
    attack: Attack = PGD(steps=10)

    name = "logit-pairing"
    own_numbers = True
    weighed_by = "weight"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("weight", self.weight, 0.0, 1e6)

    def losses(self, clean: Tensor, adversarial: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        both = (cross_entropy(clean, labels) + cross_entropy(adversarial, labels)) / 2
        return both + weights * (clean - adversarial).square().mean((-2, -1))
