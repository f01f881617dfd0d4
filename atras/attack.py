"""Attacks on a whole group of members at once. An attack object is its parameters; the call makes the examples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from atras.kernels import apply_signs, fgsm

from .engine import Engine
from .errors import InputError
from .protocol import Protocol

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Attacked:
    """Adversarial examples of M members for one set of images.

    Args:
        images: [B, C, H, W], float, the clean images.
        signs: int8 [M, B, C, H, W], the direction each pixel moves.
        epsilon, bounds: of the attack.
        labels: int64 [M, B], the labels of the attack's loss.
        clean_logits: [M, B, Y], on the clean images.
        nan_gradients, zero_gradients: int64 [M], pixels left as they were for that reason.
    """

    images: Tensor
    signs: Tensor
    epsilon: float
    bounds: Bounds
    labels: Tensor
    clean_logits: Tensor
    nan_gradients: Tensor
    zero_gradients: Tensor

    @property
    def raw(self) -> Tensor:
        """[M, B, C, H, W], moved by epsilon wherever that leads."""
        return self.images + self.epsilon * self.signs

    @property
    def clipped(self) -> Tensor:
        """[M, B, C, H, W], moved and clipped to the bounds: the adversarial images."""
        return apply_signs(self.images, self.signs, self.epsilon, bounds=self.bounds, dtype=self.images.dtype)

    def success(self, engine: Engine, labels: Tensor) -> Tensor:
        """bool [M, B]: whether the adversarial image is taken for another class than `labels` [B] say."""
        return engine.logits(self.clipped).argmax(-1) != labels


@dataclass(frozen=True)
class FGSM:
    """The fast gradient sign method: one step of epsilon along the sign of the loss gradient.

    Untargeted, the image ascends the loss of its label; targeted, it descends the loss of the target.

    Args:
        epsilon: largest change of a pixel, in pixels of [0, 1]; 0 is the identity.
        label_source: label of the untargeted attack: `true`, or the attacked model's own `predicted` one.
        target: `none`; `class:N`, `random` (given to the call) or `least-likely` for the targeted attack.
        bounds: pixels are clipped to this range.

    Source: Goodfellow et al. 2015, section 4 (untargeted); Kurakin et al. 2017, section 2.3 (least likely class).
    """

    epsilon: float
    label_source: str = "true"
    target: str = "none"
    bounds: Bounds = (0.0, 1.0)

    @classmethod
    def of(cls, protocol: Protocol) -> FGSM:
        """The attack that a protocol asks for."""
        return cls(protocol.epsilon, protocol.label_source, protocol.target)

    def __call__(self, engine: Engine, images: Tensor, labels: Tensor, targets: Tensor | None = None) -> Attacked:
        """Attack every member on the same images.

        Args:
            engine: the members.
            images: [B, C, H, W], float, within the bounds.
            labels: int64 [B], the true classes.
            targets: int64 [B] or [M, B]; only for target `random`.

        Raises:
            InputError: if the images are out of bounds, or `random` comes without targets.
        """
        low, high = self.bounds
        if images.numel() and not (images.amin() >= low and images.amax() <= high):
            raise InputError(
                f"FGSM: expected pixels from {low:g} to {high:g}; normalise inside the model, not before it"
            )
        if self.target == "random" and targets is None:
            raise InputError("FGSM: expected targets for target 'random', got none; pass randomness.random_targets")
        chosen: list[Tensor] = []

        def choose(logits: Tensor) -> Tensor:
            chosen.append(self._loss_labels(logits, labels, targets).expand(logits.shape[:2]))
            return chosen[0]

        gradients, clean_logits = engine.input_gradient(images, choose)
        direction = 1 if self.target == "none" else -1
        signs, nan_count, zero_count = fgsm(
            images, gradients, self.epsilon, bounds=self.bounds, direction=direction, output="signs"
        )
        return Attacked(images, signs, self.epsilon, self.bounds, chosen[0], clean_logits, nan_count, zero_count)

    def _loss_labels(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        if self.target.startswith("class:"):
            return labels.new_full(labels.shape, int(self.target.removeprefix("class:")))
        if self.target == "random" and targets is not None:
            return targets
        if self.target == "least-likely":
            return logits.argmin(-1)
        return logits.argmax(-1) if self.label_source == "predicted" else labels
