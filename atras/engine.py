"""What an engine is: a few members that are stepped, evaluated and attacked together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from atras.kernels import apply_signs

from .data import pixels
from .model import Parameters, Spec
from .protocol import Protocol
from .space import Candidate

DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
"""Type of images, parameters, gradients and logits by precision; bf16 is inside the products of training alone."""


class Member(NamedTuple):
    """One trained network: a candidate and the seed of its weights, batches and masks."""

    candidate: Candidate
    seed: int


class StepResult(NamedTuple):
    """What a training step reports: mean loss and correct predictions of its own batch, each [M]."""

    losses: Tensor
    correct: Tensor


class Epoch(NamedTuple):
    """One pass over the training images, or over them and their adversarial copies.

    Args:
        images: [N, C, H, W], uint8 or float32, shared by all members.
        labels: int64 [N].
        orders: int64 [S, n], an order of the images for each seed; an index from N on stands for an adversarial copy.
        order_of: int64 [M], the row of `orders` that each member follows.
        signs: int8 [M, N, C, H, W], which make each member's own copies; None where there are none.
        epsilon: attack strength of the copies.
    """

    images: Tensor
    labels: Tensor
    orders: Tensor
    order_of: Tensor
    signs: Tensor | None
    epsilon: float

    def batches(self, size: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels step by step: shared by all members where nothing tells them apart, else one set each."""
        for index in torch.split(self.orders, size, dim=1):
            index = index[0] if len(self.orders) == 1 else index[self.order_of]
            base = index % len(self.labels)
            images, labels = pixels(self.images[base], dtype), self.labels[base]
            if self.signs is not None:
                members = torch.arange(len(self.signs), device=base.device)[:, None]
                copied = (index >= len(self.labels)).to(torch.int8)[..., None, None, None]
                images = apply_signs(images, self.signs[members, base] * copied, self.epsilon, dtype=dtype)
            yield images, labels


class Engine(ABC):
    """M members on one device.

    Images are [B, C, H, W], shared by all members, or [M, B, C, H, W]; labels are [B] or [M, B].

    Args:
        spec: what the networks share.
        members: (candidate, seed) pairs, all of one depth.
        protocol: precision, optimizer and learning rate.
        device: where the parameters live.
        learning_rates: one a member, in place of the protocol's.
    """

    name: ClassVar[str]

    def __init__(
        self,
        spec: Spec,
        members: Sequence[Member],
        protocol: Protocol,
        device: torch.device,
        learning_rates: Sequence[float] | None = None,
    ) -> None:
        self.spec = spec
        self.members = tuple(members)
        self.protocol = protocol
        self.device = device
        self.dtype = DTYPES[protocol.precision]
        self.learning_rates = tuple(learning_rates or [protocol.learning_rate] * len(self.members))
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make the parameters at their initial values, or refuse members that cannot be computed together."""

    @abstractmethod
    def begin_phase(self, phase: str) -> None:
        """Forget the optimizer's state, and count steps and dropout masks of this phase (`train`, `adversarial`)."""

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Train every member on its batch once; the loss is the mean over the batch."""

    def epoch(self, work: Epoch) -> StepResult:
        """Train every member on a whole pass, batch after batch.

        Returns:
            losses float64 [M], summed over the images, and correct predictions int64 [M], both of the batches as they
            were trained on.
        """
        losses = torch.zeros(len(self.members), dtype=torch.float64, device=self.device)
        correct = torch.zeros(len(self.members), dtype=torch.int64, device=self.device)
        for images, labels in work.batches(self.protocol.batch_size, self.dtype):
            result = self.step(images, labels)
            losses += result.losses.double() * labels.shape[-1]
            correct += result.correct
        return StepResult(losses, correct)

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """[M, B, Y] in evaluation mode."""

    @abstractmethod
    def input_gradient(self, images: Tensor, choose_labels: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Gradient of each image's own cross-entropy, in evaluation mode.

        Args:
            images: [B, C, H, W] or [M, B, C, H, W], float.
            choose_labels: from logits [M, B, Y] to the labels [M, B] (or [B]) of the loss.

        Returns:
            gradient [M, B, C, H, W] and logits [M, B, Y].
        """

    @abstractmethod
    def parameters_of(self, index: int) -> Parameters:
        """A copy of one member's parameters at their natural widths."""
