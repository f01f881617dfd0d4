"""Iterated attacks along the sign of the loss gradient, with random starts: PGD and random-start FGSM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.checks import number, truth, whole

from .attack import Attack, Attacked, Draw, Passes, Start
from .random_starts import starts

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier


@dataclass(frozen=True, repr=False)
class PGD(Attack):
    """Projected gradient descent: steps along the sign of the gradient, with random starts, inside the ball of epsilon.

    Of several restarts an image keeps the best one: where the attack reached its aim (another class than its label, or
    the target), else where its loss came furthest.

    Args:
        steps: at least 1.
        step_size: change of a pixel in a step; None for 2.5 epsilon / steps.
        restarts: at least 1.
        random_start: whether each restart begins uniformly in the ball; without, at the image itself.

    The others are those of `Attack`.

    Source: Madry et al. 2018, section 2.1.
    """

    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True

    name = "pgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("steps", self.steps, 1, 10**6)
        whole("restarts", self.restarts, 1, 10**6)
        truth("random_start", self.random_start)
        if self.step_size is not None:
            number("step_size", self.step_size, 0.0, 1.0)
            object.__setattr__(self, "step_size", float(self.step_size))

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (alike for any number of classes)
        return Passes(self.restarts, self.steps * self.restarts)

    @property
    def length(self) -> float:
        """Change of a pixel in a step."""
        return 2.5 * self.strength / self.steps if self.step_size is None else self.step_size

    def __call__(self, networks: Classifier, images: Tensor, labels: Tensor, *, start: Start = Start()) -> Attacked:
        import torch

        self.check(images, start)
        clean_logits = start.clean_logits
        if clean_logits is None and self.needs_logits:
            clean_logits = networks.logits(images)
        chosen = self.loss_labels(clean_logits, labels, start).expand(len(networks.members), -1)
        draw: Draw = starts(networks, images, self.name) if start.draw is None else start.draw
        counts = torch.zeros(2, len(networks.members), dtype=torch.int64, device=images.device)
        best = self._ascend(networks, images, chosen, draw(0) if self.random_start else None, counts)
        logits: Tensor | None = None  # with one start nobody asks
        for restart in range(1, self.restarts):
            logits = networks.logits(best) if logits is None else logits
            again = self._ascend(networks, images, chosen, draw(restart) if self.random_start else None, counts)
            reached = networks.logits(again)
            better = self._better(reached, logits, chosen)
            best = torch.where(better[..., None, None, None], again, best)
            logits = torch.where(better[..., None], reached, logits)
        return Attacked(
            images=images,
            clipped=best,
            labels=chosen,
            clean_logits=clean_logits,
            logits=logits,
            nan_gradients=counts[0],
            zero_gradients=counts[1],
            gradients=self.steps * self.restarts,
        )

    def _ascend(
        self, networks: Classifier, images: Tensor, labels: Tensor, start: Tensor | None, counts: Tensor
    ) -> Tensor:
        """[M, B, C, H, W] after all steps from one start; NaN and zero gradients are added to counts [2, M]."""
        import torch

        from atras.kernels import fgsm

        lowest = (images - self.strength).clamp(min=self.bounds[0])
        highest = (images + self.strength).clamp(max=self.bounds[1])
        x = images if start is None else torch.clamp(images + self.strength * start, lowest, highest)
        for _ in range(self.steps):
            gradients, _ = networks.gradient(x, labels)
            x, *left_alone = fgsm(x, gradients, self.length, bounds=self.bounds, direction=self.direction)
            x = torch.clamp(x, lowest, highest)
            counts += torch.stack(left_alone)
        return x

    def _better(self, new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        """bool [M, B]: whether the new adversarial image, by its logits, is a better one than the old."""
        reached, before = self._reached(new, labels), self._reached(old, labels)
        further = self.direction * (_loss(new, labels) - _loss(old, labels)) > 0
        return further.where(reached == before, reached)

    def _reached(self, logits: Tensor, labels: Tensor) -> Tensor:
        predictions = logits.argmax(-1)
        return predictions != labels if self.target == "none" else predictions == labels


@dataclass(frozen=True, repr=False)
class RandomFGSM(PGD):
    """FGSM from a random start: one step of 1.25 epsilon from a uniform point of the ball, back into the ball.

    Args:
        step_size: change of a pixel in the step; None for 1.25 epsilon.

    The others are those of `PGD`.

    Source: Wong, Rice, Kolter 2020, "Fast is better than free", algorithm 3.
    """

    steps: int = 1

    name = "random-fgsm"

    @property
    def length(self) -> float:
        return 1.25 * self.strength if self.step_size is None else self.step_size


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy [M, B]."""
    import torch.nn.functional as F

    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
