"""Attacks on a whole group of members at once. An attack object is its parameters; the call makes the examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from atras.engines.engine import Engine
from atras.errors import InputError
from atras.kernels import apply_signs, fgsm
from atras.networks.randomness import random_starts

Bounds = tuple[float, float]
Draw = Callable[[int], Tensor]
"""From the number of a restart to starting points, uniform in [-1, 1], for [B, C, H, W] or [M, B, C, H, W] images."""


class Label(NamedTuple):
    """How an attack is called in the frames; a bound or label source that it does not have is None."""

    name: str
    parameters: str | None
    epsilon: float | None
    label_source: str | None
    target: str | None


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """Adversarial examples of M members for one set of images.

    Args:
        images: [B, C, H, W] or [M, B, C, H, W], float, the clean images.
        clipped: [M, B, C, H, W], the adversarial images, within the bounds.
        labels: int64 [M, B], the labels of the attack's loss.
        clean_logits: [M, B, Y], on the clean images; None where the attack neither needed nor was given them.
        logits: [M, B, Y], on the adversarial images; None where the attack did not need them.
        nan_gradients, zero_gradients: int64 [M], pixels left as they were for that reason.
        gradients: how many gradients of every image those counts are of; 0 where none is counted.
    """

    images: Tensor
    clipped: Tensor
    labels: Tensor
    clean_logits: Tensor | None
    logits: Tensor | None = None
    nan_gradients: Tensor
    zero_gradients: Tensor
    gradients: int = 1

    def logits_of(self, engine: Engine) -> Tensor:
        """[M, B, Y], on the adversarial images: those that the attack saw, or computed now."""
        return engine.logits(self.clipped) if self.logits is None else self.logits

    def success(self, engine: Engine, labels: Tensor) -> Tensor:
        """bool [M, B]: whether the adversarial image is taken for another class than `labels` [B] or [M, B] say."""
        return self.logits_of(engine).argmax(-1) != labels


@dataclass(frozen=True, kw_only=True)
class Signed(Attacked):
    """Examples of an attack whose change is epsilon times a sign.

    Args:
        signs: int8 [M, B, C, H, W], the direction each pixel moves.
        epsilon, bounds: of the attack.
    """

    clean_logits: Tensor
    signs: Tensor
    epsilon: float
    bounds: Bounds

    @property
    def raw(self) -> Tensor:
        """[M, B, C, H, W], moved by epsilon wherever that leads."""
        return self.images + self.epsilon * self.signs

    def moved_by(self, epsilon: float) -> Tensor:
        """[M, B, C, H, W], the adversarial images of another epsilon."""
        return apply_signs(self.images, self.signs, epsilon, bounds=self.bounds, dtype=self.images.dtype)


@dataclass(frozen=True)
class Attack(ABC):
    """What all attacks share.

    Args:
        epsilon: largest change of a pixel, in pixels of [0, 1]; 0 is the identity.
        label_source: label of the untargeted attack: `true`, or the attacked model's own `predicted` one.
        target: `none`; `class:N`, `random` (given to the call) or `least-likely` for the targeted attack.
        bounds: pixels are clipped to this range.
    """

    epsilon: float
    label_source: str = "true"
    target: str = "none"
    bounds: Bounds = (0.0, 1.0)

    name: ClassVar[str]

    @property
    def direction(self) -> Literal[1, -1]:
        """1 where the attack ascends its loss, -1 where it descends it."""
        return 1 if self.target == "none" else -1

    @property
    def parameters(self) -> str | None:
        """What else the attack was given, for the frames."""
        return None

    @property
    def label(self) -> Label:
        """How the attack is called in the frames."""
        source = self.label_source if self.target == "none" else None
        return Label(self.name, self.parameters, self.epsilon, source, self.target)

    @abstractmethod
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
        """Attack every member.

        Args:
            engine: the members.
            images: [B, C, H, W], shared, or [M, B, C, H, W], float, within the bounds.
            labels: int64 [B] or [M, B], the true classes.
            targets: int64 [B] or [M, B]; only for target `random`.
            clean_logits: [M, B, Y] of the images, where they are known already.
            draw: random starts; None for those of the first test images.

        Raises:
            InputError: if the images are out of bounds, or `random` comes without targets.
        """

    def check(self, images: Tensor, targets: Tensor | None) -> None:
        """Refuse images out of bounds, and a random target without targets."""
        low, high = self.bounds
        if images.numel() and not (images.amin() >= low and images.amax() <= high):
            raise InputError(
                f"{type(self).__name__}: expected pixels from {low:g} to {high:g}; normalise inside the model, not "
                "before it"
            )
        if self.target == "random" and targets is None:
            raise InputError(
                f"{type(self).__name__}: expected targets for target 'random', got none; pass randomness.random_targets"
            )

    @property
    def needs_logits(self) -> bool:
        """Whether the labels of the loss depend on the model."""
        return self.target == "least-likely" or (self.target == "none" and self.label_source == "predicted")

    def loss_labels(self, logits: Tensor | None, labels: Tensor, targets: Tensor | None) -> Tensor:
        """int64 [B] or [M, B], the labels of the attack's loss, from clean logits [M, B, Y] where it needs them."""
        chosen = labels
        if self.target.startswith("class:"):
            chosen = labels.new_full(labels.shape, int(self.target.removeprefix("class:")))
        elif self.target == "random" and targets is not None:
            chosen = targets
        elif self.needs_logits and logits is not None:
            chosen = logits.argmin(-1) if self.target == "least-likely" else logits.argmax(-1)
        return chosen if logits is None else chosen.expand(logits.shape[:2])


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method: one step of epsilon along the sign of the loss gradient.

    Untargeted, the image ascends the loss of its label; targeted, it descends the loss of the target. See `Attack`.

    Source: Goodfellow et al. 2015, section 4 (untargeted); Kurakin et al. 2017, section 2.3 (least likely class).
    """

    name = "fgsm"

    def __call__(
        self,
        engine: Engine,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None = None,
        *,
        clean_logits: Tensor | None = None,
        draw: Draw | None = None,  # noqa: ARG002 (nothing is random here)
    ) -> Signed:
        self.check(images, targets)
        if clean_logits is None:
            gradients, clean_logits = engine.input_gradient(images, lambda z: self.loss_labels(z, labels, targets))
            chosen = self.loss_labels(clean_logits, labels, targets)
        else:
            chosen = self.loss_labels(clean_logits, labels, targets)
            gradients = engine.gradient(images, chosen)
        signs, nan_count, zero_count = fgsm(
            images, gradients, self.epsilon, bounds=self.bounds, direction=self.direction, output="signs"
        )
        return Signed(
            images=images,
            clipped=apply_signs(images, signs, self.epsilon, bounds=self.bounds, dtype=images.dtype),
            labels=chosen,
            clean_logits=clean_logits,
            nan_gradients=nan_count,
            zero_gradients=zero_count,
            signs=signs,
            epsilon=self.epsilon,
            bounds=self.bounds,
        )


def starts(engine: Engine, images: Tensor, name: str, split: str = "test", first: int = 0) -> Draw:
    """The random starts of an attack on images `first`, `first` + 1, ... of a split: the same for all of a seed.

    Args:
        engine: the members, whose seeds count the draws.
        images: as the attack takes them.
        name: of the attack.
        split: `train` or `test`.
        first: number of the first image.
    """

    def draw(restart: int) -> Tensor:
        count, *shape = images.shape[-4:]
        seeds = list(dict.fromkeys(member.seed for member in engine.members))
        own = torch.stack([random_starts(seed, split, name, restart, first, count, shape) for seed in seeds])
        rows = [seeds.index(member.seed) for member in engine.members]
        return (own[0] if len(seeds) == 1 else own[rows]).to(images)

    return draw
