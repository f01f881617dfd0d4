"""The balls that PGD stays in: where it begins, and where a step along a gradient leads."""

from __future__ import annotations

import torch
from torch import Tensor

from atras.kernels import fgsm

from .attack import Bounds, spread
from .norms import near_one, projected, random_point, scaled


class LinfBall:
    """Every pixel within epsilon of the image's; a step is along the sign of the gradient.

    Args:
        images: [B, C, H, W] or [M, B, C, H, W].
        epsilon: largest change; or float64 [M], each member's own.
        bounds: of the pixels.
    """

    def __init__(self, images: Tensor, epsilon: float | Tensor, bounds: Bounds) -> None:
        self.images, self.bounds = images, bounds
        self._reach = spread(epsilon, images)
        self.lowest = (images - self._reach).clamp(min=bounds[0])
        self.highest = (images + self._reach).clamp(max=bounds[1])

    def begin(self, draw: Tensor) -> Tensor:
        """Random points of the ball, from a draw [B, C, H, W] or [M, B, C, H, W] that is uniform in [-1, 1)."""
        return torch.clamp(self.unclipped(draw), self.lowest, self.highest)

    def unclipped(self, draw: Tensor) -> Tensor:
        """The same points before they are brought into the bounds."""
        return self.images + self._reach * draw

    def step(self, x: Tensor, gradients: Tensor, size: float | Tensor, direction: int) -> tuple[Tensor, Tensor]:
        """A step of this size from x along the gradients, or against them.

        Args:
            x: [B, C, H, W] or [M, B, C, H, W].
            gradients: [M, B, C, H, W]; where one is NaN the pixel stays.
            size: of the step, in the norm of the ball; or float64 [M], each member's own.
            direction: 1, or -1 for against.

        Returns:
            The points [M, B, C, H, W], in the ball, and int64 [2, M], numbers of NaN and of zero gradients.
        """
        x, *left_alone = fgsm(x, gradients, size, bounds=self.bounds, direction=direction)
        # In place: new memory costs more than the clamp.
        return torch.clamp(x, self.lowest, self.highest, out=x), torch.stack(left_alone)


class L2Ball:
    """The change of all pixels together within epsilon in l2; a step is along the gradient, at length `size`.

    It begins in a normally distributed direction at the distance epsilon, where nearly all of the ball's volume lies.
    Arguments and methods are those of `LinfBall`, with numbers that all members have in common.
    """

    def __init__(self, images: Tensor, epsilon: float | Tensor, bounds: Bounds) -> None:
        self.images, self.epsilon, self.bounds = images, float(epsilon), bounds

    def begin(self, draw: Tensor) -> Tensor:
        shape = max(draw.shape, self.images.shape, key=len)  # members may share either
        flat, clean = (each.expand(shape).flatten(0, -4) for each in (draw, self.images))
        return random_point(flat, clean, self.epsilon, "l2", self.bounds).view(shape)

    def unclipped(self, draw: Tensor) -> Tensor:
        return self.images + self.epsilon * draw

    def step(self, x: Tensor, gradients: Tensor, size: float | Tensor, direction: int) -> tuple[Tensor, Tensor]:
        none = gradients.isnan()
        left_alone = torch.stack([none.flatten(1).sum(1), (gradients == 0).flatten(1).sum(1)])
        along = scaled(near_one(gradients.flatten(0, 1)), direction * float(size), "l2")
        reached = x.expand(gradients.shape).flatten(0, 1) + along
        clean = self.images.expand(gradients.shape).flatten(0, 1)
        return projected(reached, clean, self.epsilon, "l2", self.bounds).view_as(gradients), left_alone


BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"linf": LinfBall, "l2": L2Ball}
"""By the norm."""
