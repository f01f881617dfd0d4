"""Defences: how the second training makes networks robust. A defence is its parameters; it trains batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from atras.attacks import Passes
from atras.registry import Spelled, accept_forms

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import StepResult, Trainable


class Batch(NamedTuple):
    """One batch of the second training.

    Args:
        images: [B, C, H, W], shared by all members, or [M, B, C, H, W]; float, clean.
        labels: int64 [B] or [M, B].
        copied: bool, shaped like `labels`: which positions stand for the adversarial copy of their image.
        epoch: from 1.
        number: of the batch in its epoch, from 0.
        classes: int64 [K], ascending, those that training images have; None for all.
        epochs: of the second training, in all.
        kept: what a defence keeps from one batch to the next, tensors [M, ...] by name, changed in place; a run that is
            interrupted goes on with them.
        made: whether the copies are what they are to be: those of another network.
        in_range: as in `Start`, of the images.
        own: float64 [M] of each number of `Defence.own` that the members differ in, by name.
    """

    images: Tensor
    labels: Tensor
    copied: Tensor
    epoch: int
    number: int
    classes: Tensor | None = None
    epochs: int = 1
    kept: dict[str, Tensor] | None = None
    made: bool = False
    in_range: bool = False
    own: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True, repr=False)
class Defence(Spelled, ABC):
    """Base class of defences.

    A subclass is a frozen dataclass: its fields are its options, spelled alike in Python, on the command line and in
    the frames, and the first line of its docstring is its line in `--help`.

    An epoch goes over every training image and, where `copies` says so, over as many adversarial copies, in an order
    drawn for each seed.
    """

    name: ClassVar[str]
    copies: ClassVar[bool] = True
    """Whether an epoch has an adversarial copy of every image beside the image."""
    from_signs: ClassVar[bool] = False
    """Whether the copies are made once, as signs, before the second training; `step` is not called then."""

    trains: ClassVar[bool] = True
    """Whether there is a second training at all."""
    own_numbers: ClassVar[bool] = False
    """Whether `step` takes `Batch.own`; of this class alone, not of those that derive from it."""
    views: ClassVar[int] = 1
    """Images of an optimizer step for each image of the batch: 2 where the image and its adversarial copy go through
    the network together."""
    own_objective: ClassVar[bool] = False
    """Whether `step` trains for another objective than the cross-entropy at the labels, which takes no smoothing."""
    within_steps: ClassVar[bool] = False
    """Whether the gradients of `cost` come with the steps, of an engine that has both of one backward pass."""

    def __post_init__(self) -> None:
        accept_forms(self)

    @property
    def source(self) -> str:
        """Owner of the copies that each member is trained on: `own`, `smallest`, or the name of a candidate."""
        return "own"

    @property
    def start(self) -> str:
        """Weights that the second training begins with: the `trained` ones, or initial ones, from `scratch`."""
        return "trained"

    @property
    def steps_a_batch(self) -> int:
        """Optimizer steps that `step` makes on each batch: what a schedule of the learning rate counts."""
        return 1

    @property
    def others(self) -> int:
        """Other networks of the run whose copies each member is trained on besides its own."""
        return 0

    @property
    def looks_around(self) -> bool:
        """Whether it depends on the other candidates of the run on whose images a member trains."""
        return bool(self.others) or self.source == "smallest"

    @property
    def compared(self) -> bool:
        """Whether FGSM and PGD are compared after every epoch: where they part, it is catastrophic overfitting."""
        return self.copies and self.trains and not self.from_signs

    def at(self, epsilon: float) -> Self:  # noqa: ARG002 (a defence without an attack stays as it is)
        """The defence with this epsilon where its attack has none of its own."""
        return self

    @property
    def own(self) -> dict[str, float]:
        """Its numbers, by name, of which members that train together may each have their own, once its epsilon is
        definite: `step` finds those that differ in `Batch.own`."""
        return {}

    @property
    def alike(self) -> Self:
        """The defence but for those numbers."""
        return self

    @property
    def in_common(self) -> Self:
        """What members must have in common to train together: `alike`, where the class itself says by `own_numbers`
        that it takes them one by one; one that derives from it may do something else, and has all in common."""
        return self.alike if vars(type(self)).get("own_numbers", False) else self

    def epoch_images(self, train_size: int) -> int:
        """Images of an epoch of the second training."""
        return train_size * (2 if self.copies else 1)

    def images_seen(self, train_size: int) -> int:
        """Images that the optimizer steps of an epoch of the second training see, each as often as it is seen."""
        return self.epoch_images(train_size) * self.views * self.steps_a_batch

    @abstractmethod
    def cost(self, classes: int) -> Passes:
        """Passes that making the adversarial images of an epoch takes for each training image."""

    @abstractmethod
    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        """Train every member on one batch, once.

        Args:
            networks: the members, as they are.
            batch: clean images, and which of them are to be adversarial.

        Returns:
            What `networks.step` returns; of several steps the mean of their losses and the sum of what is correct.
        """


def place_all(images: Tensor, index: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Images of every member with some of them replaced.

    Args:
        images: [B, C, H, W] or [M, B, C, H, W].
        index: int64 [K] or [M, K], the positions to replace.
        values: [M, K, C, H, W], what to put there.
        wanted: bool [K] or [M, K], which of them really.

    Returns:
        [M, B, C, H, W], a copy.
    """
    import torch

    members = torch.arange(len(values), device=images.device)[:, None]
    result = images.expand(len(values), *images.shape[-4:]).clone()
    result[members, index] = torch.where(wanted[..., None, None, None], values, result[members, index])
    return result
