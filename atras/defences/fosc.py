"""Dynamic adversarial training: weak adversarial images first, strong ones later, by how far each has converged."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from atras.attacks import PGD, LinfBall, Passes
from atras.checks import number, whole

from .anew import Anew, draws
from .defence import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import StepResult, Trainable


@dataclass(frozen=True, repr=False)
class FOSC(Anew):
    """Training on PGD that ends, image by image, once the first-order stationary condition is below a falling bound.

    FOSC(x) = epsilon ||g||_1 - <x - clean image, g>, where g is the gradient of the cross-entropy at x: 0 where x is
    the strongest image of the ball to first order. The bound falls linearly from `criterion` to 0.

    Args:
        criterion: the bound in the first epoch (c_max of the paper).
        steps: most steps of an image, each at least one.
        step_size: change of a pixel in a step; None for epsilon / 4.
        epsilon: of training; None for the run's.
        until: share of the epochs after which the bound is 0 (T'/T of the paper).
        start: see `Anew`.

    Source: Wang et al. 2019, "On the convergence and robustness of adversarial training", equation 5, algorithm 1.
    """

    criterion: float = 0.5
    steps: int = 10
    step_size: float | None = None
    epsilon: float | None = None
    until: float = 5 / 6

    name = "fosc"
    own_numbers = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number("criterion", self.criterion, 0.0, 1e6)
        number("until", self.until, 1e-3, 1.0)
        whole("steps", self.steps, 1, 10**6)

    @property
    def attack(self) -> PGD:
        """The steps, of an image that never gets below the bound."""
        size = self.epsilon / 4 if self.step_size is None and self.epsilon is not None else self.step_size
        return PGD(self.epsilon, steps=self.steps, step_size=size)

    def at(self, epsilon: float) -> Self:
        return self if self.epsilon is not None else dataclasses.replace(self, epsilon=epsilon)

    @property
    def alike(self) -> Self:
        return dataclasses.replace(self, epsilon=None)

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (alike for any number of classes)
        return Passes(gradient=self.steps)

    def bound(self, epoch: int, epochs: int) -> float:
        """Of an epoch, from 1, of so many."""
        return max(self.criterion * (1 - (epoch - 1) / (self.until * epochs)), 0.0)

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        return networks.step(self.made(networks, batch), batch.labels)

    def made(self, networks: Trainable, batch: Batch) -> Tensor:
        import torch

        attack, bound = self.attack, self.bound(batch.epoch, batch.epochs)
        epsilon = batch.own.get("epsilon", attack.strength)
        size = epsilon / 4 if self.step_size is None else self.step_size
        ball = LinfBall(batch.images, epsilon, attack.bounds)
        x = ball.begin(draws(networks, batch, self.name)(0))
        for number_of_step in range(self.steps):
            gradients, logits = networks.gradient(x, batch.labels)
            moved, _ = ball.step(x, gradients, size, 1)
            if number_of_step == 0:
                x, going = moved, torch.ones(moved.shape[:2], dtype=torch.bool, device=moved.device)
                continue
            going &= stationarity(x - batch.images, gradients, logits, batch.labels, epsilon) > bound
            if not going.any():
                break
            x = torch.where(going[..., None, None, None], moved, x)
        return x


def stationarity(change: Tensor, gradients: Tensor, logits: Tensor, labels: Tensor, epsilon: float | Tensor) -> Tensor:
    """[M, B], the first-order stationary condition of points of a ball; NaN where a gradient is.

    Args:
        change: [M, B, C, H, W], from the clean images.
        gradients: likewise, of the log-odds against the labels, which are those of the cross-entropy over 1 - p.
        logits: [M, B, Y], of the points.
        labels: int64 [B] or [M, B].
        epsilon: of the ball; float64 [M] where members have their own.
    """
    from atras.networks import log_odds

    missed = log_odds(logits, labels.expand(logits.shape[:2])).sigmoid()  # 1 - p, without the subtraction
    flat = gradients.flatten(2)
    reach = epsilon if isinstance(epsilon, float) else epsilon.to(flat)[:, None]
    return missed * (reach * flat.abs().sum(-1) - (change.flatten(2) * flat).sum(-1))
