"""Iterated attacks along the sign of the loss gradient, with random starts: PGD and random-start FGSM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from atras.checks import number, truth, whole

from .attack import Attack, Attacked, Draw, Passes, Start, nowhere
from .random_starts import starts

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier


class _Kept(NamedTuple):
    """Adversarial images [M, B, C, H, W], and their logits [M, B, Y] where they are known."""

    images: Tensor
    logits: Tensor | None


@dataclass(frozen=True, repr=False)
class PGD(Attack):
    """Projected gradient descent: steps along the sign of the gradient, with random starts, inside the ball of epsilon.

    An image keeps the best point on its way, over all steps and restarts, the starts included: one where the attack
    reached its aim (another class than its label, or the target), and of those or of all the one whose loss came
    furthest.

    Args:
        steps: at least 1.
        step_size: change of a pixel in a step; None for 2.5 epsilon / steps.
        restarts: at least 1.
        random_start: whether each restart begins uniformly in the ball; without, at the image itself.

    The others are those of `Attack`.

    Source: Madry et al. 2018, section 2.1; Croce and Hein 2020, algorithm 1, for keeping the best.
    """

    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True

    name = "pgd"
    keeps_best: ClassVar[bool] = True
    """Whether an image keeps the best point on its way; without, the last one of the best restart."""

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

    def cost_of_making(self, classes: int) -> Passes:
        compared = self.keeps_best or self.restarts > 1  # then it knows the logits of its examples
        return self.cost(classes) if compared else super().cost_of_making(classes)

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
        chosen = self.loss_labels(clean_logits, labels, start.targets).expand(len(networks.members), -1)
        draw: Draw = starts(networks, images, self.name) if start.draw is None else start.draw
        counts = torch.zeros(2, len(networks.members), dtype=torch.int64, device=images.device)
        no_gradient = torch.ones(len(networks.members), images.shape[-4], dtype=torch.bool, device=images.device)
        ways = (
            self._ascend(networks, images, chosen, draw(i) if self.random_start else None, counts, no_gradient)
            for i in range(self.restarts)
        )
        best = reduce(lambda old, new: self._better_of(networks, old, new, chosen), chain.from_iterable(ways))
        return Attacked(
            images=images,
            clipped=best.images,
            labels=chosen,
            clean_logits=clean_logits,
            logits=best.logits,
            nan_gradients=counts[0],
            zero_gradients=counts[1],
            gradients=self.steps * self.restarts,
            no_gradient=no_gradient,
        )

    def _ascend(
        self,
        networks: Classifier,
        images: Tensor,
        labels: Tensor,
        start: Tensor | None,
        counts: Tensor,
        no_gradient: Tensor,
    ) -> Iterator[_Kept]:
        """What there is to choose from on the way from one start.

        NaN and zero gradients are added to counts [2, M]; images that had a gradient leave no_gradient [M, B].
        """
        import torch

        from atras.kernels import fgsm

        lowest = (images - self.strength).clamp(min=self.bounds[0])
        highest = (images + self.strength).clamp(max=self.bounds[1])
        x = images if start is None else torch.clamp(images + self.strength * start, lowest, highest)
        for _ in range(self.steps):
            gradients, logits = networks.gradient(x, labels)
            if self.keeps_best:
                yield _Kept(x.expand(gradients.shape), logits)
            x, *left_alone = fgsm(x, gradients, self.length, bounds=self.bounds, direction=self.direction)
            x = torch.clamp(x, lowest, highest)
            counts += torch.stack(left_alone)
            no_gradient &= nowhere(gradients)
        yield _Kept(x, None)

    def _better_of(self, networks: Classifier, old: _Kept, new: _Kept, labels: Tensor) -> _Kept:
        """Of each image the better one of two; the old one where they are alike."""
        import torch

        before = networks.logits(old.images) if old.logits is None else old.logits
        after = networks.logits(new.images) if new.logits is None else new.logits
        better = self._better(after, before, labels)
        images = torch.where(better[..., None, None, None], new.images, old.images)
        return _Kept(images, torch.where(better[..., None], after, before))

    def _better(self, new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        """bool [M, B]: whether the new adversarial image, by its logits, is a better one than the old."""
        from atras.networks import log_odds  # the cross-entropy is 0 for all where float32 is sure

        reached, before = self._reached(new, labels), self._reached(old, labels)
        further = self.direction * (log_odds(new, labels) - log_odds(old, labels)) > 0
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
    keeps_best = False  # it is the step

    @property
    def length(self) -> float:
        return 1.25 * self.strength if self.step_size is None else self.step_size
