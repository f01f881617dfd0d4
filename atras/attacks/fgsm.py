"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .attack import Attack, Attacked, Bounds, Passes, Start, nowhere, spread

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier, Cotangent


@dataclass(frozen=True, kw_only=True)
class Signed(Attacked):
    """Examples of an attack whose change is epsilon times a sign.

    Args:
        signs: int8 [M, B, C, H, W], the direction each pixel moves.
        epsilon: of the attack; float64 [M] where members have their own.
        bounds: of the attack.
    """

    clean_logits: Tensor
    signs: Tensor
    epsilon: float | Tensor
    bounds: Bounds

    @property
    def raw(self) -> Tensor:
        """[M, B, C, H, W], moved by epsilon wherever that leads."""
        return self.images + spread(self.epsilon, self.images) * self.signs

    def moved_by(self, epsilon: float) -> Tensor:
        """[M, B, C, H, W], the adversarial images of another epsilon."""
        from atras.kernels import apply_signs

        return apply_signs(self.images, self.signs, epsilon, bounds=self.bounds, dtype=self.images.dtype)


@dataclass(frozen=True, repr=False)
class FGSM(Attack):
    """The fast gradient sign method: one step of epsilon along the sign of the loss gradient.

    Untargeted, the image ascends the loss of its label; targeted, it descends the loss of the target. The loss is the
    cross-entropy, followed by the log-odds, which grow with it and whose gradient does not fade. See `Attack`.

    Source: Goodfellow et al. 2015, section 4 (untargeted); Kurakin et al. 2017, section 2.3 (least likely class).
    """

    name = "fgsm"
    own_epsilons = True
    searches = False
    kept_copies = 8

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (alike for any number of classes)
        return Passes(1, 1)

    def __call__(self, networks: Classifier, images: Tensor, labels: Tensor, *, start: Start = Start()) -> Signed:
        from atras.kernels import apply_signs, fgsm

        self.check(images, start)
        clean_logits, epsilon = start.clean_logits, self.strengths(start)
        if clean_logits is None:
            gradients, clean_logits = networks.gradient(images, self._objective(labels, start))
            chosen = self.loss_labels(clean_logits, labels, start)
        else:
            chosen = self.loss_labels(clean_logits, labels, start)
            gradients, _ = networks.gradient(images, chosen)
        signs, nan_count, zero_count = fgsm(
            images, gradients, epsilon, bounds=self.bounds, direction=self.direction, output="signs"
        )
        return Signed(
            images=images,
            clipped=apply_signs(images, signs, epsilon, bounds=self.bounds, dtype=images.dtype),
            labels=chosen,
            clean_logits=clean_logits,
            nan_gradients=nan_count,
            zero_gradients=zero_count,
            no_gradient=nowhere(gradients),
            signs=signs,
            epsilon=epsilon,
            bounds=self.bounds,
        )

    def _objective(self, labels: Tensor, start: Start) -> Cotangent:
        """The labels of the loss where they are known before the logits; else what finds them."""
        if not self.needs_logits:
            return self.loss_labels(None, labels, start)
        if self.target == "none":
            return None  # each member's own predictions
        return lambda logits: self.loss_labels(logits, labels, start)
