"""The type Classifier: all that an attack or an evaluation needs to know of networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .candidates import Member

Cotangent = Tensor | Callable[[Tensor], Tensor] | None
"""An objective, as the input of a gradient.

- int64 [B] or [M, B] (of pairs [P], and [P, Y] below): labels; the objective is each image's log-odds against its label
  (`log_odds`), whose gradient is that of its cross-entropy divided by 1 - p: the same signs and direction, also where p
  rounds to 1.
- None: the log-odds against each member's own predictions.
- floating point [M, B, Y]: d(objective) / d(logits) of any other objective.
- a function from logits [M, B, Y] to one of the first or third kind: an `Objective`, which engines may know, or any.
"""


class Classifier(Protocol):
    """M networks in evaluation mode: an engine, or modules that a user brings.

    Images are [B, C, H, W], shared by all members, or [M, B, C, H, W]; float, pixels in [0, 1]. With counts, int64 [M]
    on the CPU, they are a list of (member, image) pairs [P, C, H, W]: so many of the first member, then so many of the
    second, and so on.
    """

    @property
    def members(self) -> Sequence[Member]:
        """The networks, in the order of axis M."""

    @property
    def device(self) -> torch.device:
        """Where images are expected."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of images, gradients and logits."""

    @property
    def classes(self) -> int:
        """Number of logits Y."""

    def logits(self, images: Tensor, counts: Tensor | None = None) -> Tensor:
        """[M, B, Y], or of pairs [P, Y]."""

    def gradient(self, images: Tensor, cotangent: Cotangent, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gradient of an objective with respect to the images.

        Args:
            images: [B, C, H, W] or [M, B, C, H, W]; with counts [P, C, H, W].
            cotangent: the objective; see `Cotangent`.
            counts: how many of the pairs are each member's.

        Returns:
            The gradient [M, B, C, H, W] of the sum over images of the objective, for each image its own, and the logits
            [M, B, Y] it came from; of pairs [P, C, H, W] and [P, Y].
        """


class StepResult(NamedTuple):
    """The result of a training step on its own batch, before the update.

    Args:
        losses: [M], mean cross-entropy at the labels, floating point.
        correct: [M], number of correct predictions, int64.
    """

    losses: Tensor
    correct: Tensor


class Trainable(Classifier, Protocol):
    """A classifier that trains: all that a defence needs to know of an engine."""

    def step(self, images: Tensor, labels: Tensor, cotangent: Cotangent = None) -> StepResult:
        """Train every member on its batch once.

        Args:
            images: [B, C, H, W] or [M, B, C, H, W].
            labels: int64 [B] or [M, B]; loss and correct predictions are told at them, whatever is trained for.
            cotangent: None for the mean cross-entropy at the labels; else d(objective) / d(logits) [M, B, Y], or a
                function from the step's own logits [M, B, Y] (with its dropout masks) to that.

        Returns:
            Mean cross-entropy and correct predictions before the update.
        """

    def step_and_gradient(self, images: Tensor, labels: Tensor) -> tuple[StepResult, Tensor]:
        """`step`, and the gradient of the same objective with respect to its images, both before the update.

        Where the backward pass of the step can go on to the images it gives both.

        Args:
            images, labels: as of `step`.

        Returns:
            The result of the step, and [M, B, C, H, W], for each image its own: the direction of the objective's
            gradient, at a length that says nothing.
        """
