"""Adversarial training: adversarial images alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.attacks import PGD, Attack

from .anew import Anew
from .defence import Batch

if TYPE_CHECKING:
    from atras.networks import StepResult, Trainable


@dataclass(frozen=True, repr=False)
class Adversarial(Anew):
    """Training on the adversarial image of every image in its place: min over weights of max over the ball of the loss.

    Args:
        attack: of training, untargeted, at the true label.
        start: see `Anew`.

    Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", equation 2.1.
    """

    attack: Attack = PGD(steps=7)

    name = "adversarial"
    own_numbers = True

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        return networks.step(self.made(networks, batch), batch.labels)
