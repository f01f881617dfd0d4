"""What an engine is: a few members that are stepped, evaluated and attacked together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from atras.data.datasets import pixels
from atras.experiment.protocol import Protocol
from atras.kernels import apply_signs
from atras.networks.candidates import Candidate
from atras.networks.network import Parameters, Spec, parameter_shapes

DTYPES = {
    "auto": torch.float32, "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.float32, "fp64": torch.float64,
}  # fmt: skip
"""Type of images, parameters, gradients and logits by precision; tf32 and bf16 are inside training's products alone."""

KINDS = ("parameters", "first", "second")
"""What a member has for each parameter: its values and the optimizer's moments."""


class Member(NamedTuple):
    """One trained network: a candidate and the seed of its weights, batches and masks."""

    candidate: Candidate
    seed: int

    @property
    def name(self) -> str:
        """Hidden layers and seed, such as `24-192/0`; tensors in files are named by it."""
        return f"{self.candidate.name}/{self.seed}"


class StepResult(NamedTuple):
    """What a training step reports: mean loss and correct predictions of its own batch, each [M]."""

    losses: Tensor
    correct: Tensor


Craft = Callable[["Engine", Tensor, Tensor, Tensor, int], Tensor]
"""From an engine, a batch's images and labels, which of them are copies (bool [B] or [M, B]), and the batch's number in
its epoch, to the images to train on: those with the copies attacked."""


class Epoch(NamedTuple):
    """One pass over the training images, or over them and their adversarial copies.

    Args:
        images: [N, C, H, W], uint8 or float32, shared by all members.
        labels: int64 [N].
        orders: int64 [S, n], an order of the images for each seed; an index from N on stands for an adversarial copy.
        order_of: int64 [M], the row of `orders` that each member follows.
        signs: int8 [M, N, C, H, W], which make each member's own copies; None where there are none.
        epsilon: attack strength of the copies.
        craft: makes the copies of every batch anew; None where the signs make them, or there are none.
    """

    images: Tensor
    labels: Tensor
    orders: Tensor
    order_of: Tensor
    signs: Tensor | None
    epsilon: float
    craft: Craft | None = None

    def batches(self, size: int, engine: Engine) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels step by step: shared by all members where nothing tells them apart, else one set each."""
        dtype = engine.dtype
        for number, index in enumerate(torch.split(self.orders, size, dim=1)):
            index = index[0] if len(self.orders) == 1 else index[self.order_of]
            base = index % len(self.labels)
            images, labels = pixels(self.images[base], dtype), self.labels[base]
            if self.signs is not None:
                members = torch.arange(len(self.signs), device=base.device)[:, None]
                copied = (index >= len(self.labels)).to(torch.int8)[..., None, None, None]
                images = apply_signs(images, self.signs[members, base] * copied, self.epsilon, dtype=dtype)
            if self.craft is not None:
                images = self.craft(engine, images, labels, index >= len(self.labels), number)
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

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimizer steps since the phase began: what dropout masks and bias corrections are counted by."""

    @steps.setter
    @abstractmethod
    def steps(self, count: int) -> None: ...

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Train every member on its batch once; the loss is the mean over the batch."""

    def epoch(self, work: Epoch) -> StepResult:
        """Train every member on a whole pass, or on a part of it that is a number of whole batches.

        Returns:
            losses float64 [M, S] and correct predictions int64 [M, S], those of each of the S batches as they were
            trained on. They do not depend on how a pass is divided into calls.
        """
        results = [self.step(*batch) for batch in work.batches(self.protocol.batch_size, self)]
        losses = torch.stack([result.losses.double() for result in results], 1)
        return StepResult(losses, torch.stack([result.correct for result in results], 1))

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

    def gradient(self, images: Tensor, labels: Tensor) -> Tensor:
        """The gradient that `input_gradient` returns, for labels [B] or [M, B] that are known beforehand."""
        return self.input_gradient(images, lambda _: labels)[0]

    @abstractmethod
    def pour_in(self, index: int, values: Parameters, moment: int = 0) -> None:
        """Set one member's parameters (0) or moments (1 and, with `adam`, 2) from their natural widths."""

    @abstractmethod
    def pour_out(self, index: int, moment: int = 0) -> Parameters:
        """A copy of one member's parameters or moments at their natural widths, named as the parameters."""

    def parameters_of(self, index: int) -> Parameters:
        """A copy of one member's parameters at their natural widths."""
        return self.pour_out(index)

    def state(self, *, optimizer: bool = True) -> dict[str, Tensor]:
        """All that training goes on from, on the CPU: it fits any engine, grouping and padding.

        Args:
            optimizer: False leaves it out, where a phase is over.

        Returns:
            Tensors named `<kind>/<hidden layers>/<seed>/<parameter>`, with kinds `parameters` and, once the phase has
            made a step, `first` and `second` (moments); and `steps`, int64 [].
        """
        steps = self.steps if optimizer else 0
        moments = 0 if steps == 0 else 2 if self.protocol.optimizer == "adam" else 1
        found = {"steps": torch.tensor(steps)}
        for moment, kind in enumerate(KINDS[: 1 + moments]):
            for index, member in enumerate(self.members):
                for name, values in self.pour_out(index, moment).items():
                    found[f"{kind}/{member.name}/{name}"] = values.cpu().contiguous()
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state; the phase that it is of must have begun. What it holds of other members is passed over.

        On the machine, engine and grouping that it came from, all that follows is bitwise the same.
        """
        self.steps = int(state["steps"])
        for moment, kind in enumerate(KINDS if self.steps else KINDS[:1]):
            for index, member in enumerate(self.members):
                names = parameter_shapes(self.spec, member.candidate.hidden)
                own = {name: state.get(f"{kind}/{member.name}/{name}") for name in names}
                values = {name: tensor for name, tensor in own.items() if tensor is not None}
                if values:
                    self.pour_in(index, values, moment)
