"""Fast adversarial training: FGSM from a random start."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from atras.attacks import RandomFGSM

from .anew import Anew
from .defence import Batch

if TYPE_CHECKING:
    from atras.networks import StepResult, Trainable


@dataclass(frozen=True, repr=False)
class Fast(Anew):
    """Training on one step of 1.25 epsilon from a random point of the ball, in place of every image.

    At a large epsilon or after many epochs it may overfit catastrophically: robust to FGSM alone. A note says when.

    Args:
        epsilon: of training; None for the run's.
        step_size: change of a pixel in the step; None for 1.25 epsilon.
        clip_start: whether the random point is clipped to the pixels' range before the gradient is taken, as in the
            authors' code for CIFAR-10; in their algorithm and their code for MNIST it is not.
        start: see `Anew`.

    Source: Wong, Rice, Kolter 2020, "Fast is better than free", algorithm 3.
    """

    epsilon: float | None = None
    step_size: float | None = None
    clip_start: bool = False

    name = "fast"
    own_numbers = True

    @property
    def attack(self) -> RandomFGSM:
        """What makes the images."""
        return RandomFGSM(self.epsilon, step_size=self.step_size, clip_start=self.clip_start)

    def at(self, epsilon: float) -> Self:
        return self if self.epsilon is not None else dataclasses.replace(self, epsilon=epsilon)

    @property
    def alike(self) -> Self:
        return dataclasses.replace(self, epsilon=None)

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        return networks.step(self.made(networks, batch), batch.labels)
