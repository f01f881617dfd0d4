"""Iterated attacks along the sign of the loss gradient, with random starts: random-start FGSM and PGD."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atras.engines.engine import Engine
from atras.kernels import fgsm

from .attack import Attack, Attacked, Draw, starts


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent in the maximum norm: steps along the gradient's sign, each back into the ball.

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

    @property
    def parameters(self) -> str | None:
        size = "" if self.step_size is None else f" step_size={self.step_size:g}"
        return f"steps={self.steps}{size} restarts={self.restarts}"

    @property
    def length(self) -> float:
        """Change of a pixel in a step."""
        return 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size

    def __call__(
        self,
        engine: Engine,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None = None,
        *,
        clean_logits: Tensor | None = None,
        draw: Draw | None = None,
    ) -> Attacked:
        self.check(images, targets)
        if clean_logits is None and self.needs_logits:
            clean_logits = engine.logits(images)
        chosen = self.loss_labels(clean_logits, labels, targets).expand(len(engine.members), -1)
        draw = starts(engine, images, self.name) if draw is None else draw
        counts = torch.zeros(2, len(engine.members), dtype=torch.int64, device=images.device)
        best = self._ascend(engine, images, chosen, draw(0) if self.random_start else None, counts)
        logits: Tensor | None = None  # with one start nobody asks
        for restart in range(1, self.restarts):
            logits = engine.logits(best) if logits is None else logits
            found = self._ascend(engine, images, chosen, draw(restart) if self.random_start else None, counts)
            reached = engine.logits(found)
            better = self._better(reached, logits, chosen)
            best = torch.where(better[..., None, None, None], found, best)
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

    def _ascend(self, engine: Engine, images: Tensor, labels: Tensor, start: Tensor | None, counts: Tensor) -> Tensor:
        """[M, B, C, H, W] after all steps from one start; NaN and zero gradients are added to counts [2, M]."""
        lowest = (images - self.epsilon).clamp(min=self.bounds[0])
        highest = (images + self.epsilon).clamp(max=self.bounds[1])
        x = images if start is None else torch.clamp(images + self.epsilon * start, lowest, highest)
        for _ in range(self.steps):
            gradients = engine.gradient(x, labels)
            x, *found = fgsm(x, gradients, self.length, bounds=self.bounds, direction=self.direction)
            x = torch.clamp(x, lowest, highest)
            counts += torch.stack(found)
        return x

    def _better(self, new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        """bool [M, B]: whether the new adversarial image, by its logits, is a better one than the old."""
        reached, before = self._reached(new, labels), self._reached(old, labels)
        further = self.direction * (_loss(new, labels) - _loss(old, labels)) > 0
        return torch.where(reached == before, further, reached)

    def _reached(self, logits: Tensor, labels: Tensor) -> Tensor:
        found = logits.argmax(-1)
        return found != labels if self.target == "none" else found == labels


@dataclass(frozen=True)
class RandomFGSM(PGD):
    """FGSM from a random start: one step of 1.25 epsilon from a uniform point of the ball, back into the ball.

    Source: Wong, Rice, Kolter 2020, "Fast is better than free", algorithm 3.
    """

    steps: int = 1

    name = "random-fgsm"

    @property
    def parameters(self) -> str | None:
        return None if self.step_size is None else f"step_size={self.step_size:g}"

    @property
    def length(self) -> float:
        return 1.25 * self.epsilon if self.step_size is None else self.step_size


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy [M, B]."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
