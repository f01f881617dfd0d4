"""What an engine is: a few members that are stepped, evaluated and attacked together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .model import Parameters, Spec
from .protocol import Protocol
from .space import Candidate

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


class Member(NamedTuple):
    """One trained network: a candidate and the seed of its weights, batches and masks."""

    candidate: Candidate
    seed: int


class StepResult(NamedTuple):
    """What a training step reports: mean loss and correct predictions of its own batch, each [M]."""

    losses: Tensor
    correct: Tensor


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

    @abstractmethod
    def begin_phase(self, phase: str) -> None:
        """Forget the optimizer's state, and count steps and dropout masks of this phase (`train`, `adversarial`)."""

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Train every member on its batch once; the loss is the mean over the batch."""

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
