"""The base class of attacks that work through a list of (member, image) pairs."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from atras.checks import one_of
from atras.registry import UNSPELLED

from .attack import Attack, Attacked, Start
from .random_starts import starts

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier

    from .pairs import Pairs

FARTHEST = {"linf": 1.0, "l2": 1e3, "l1": 1e6}
"""Highest epsilon of each norm: what no image of a usual size can need."""


class Found(NamedTuple):
    """What an attack made of P pairs.

    Args:
        images: [P, C, H, W], within the ball and the bounds.
        fooled: bool [P], whether they are taken for another class than the label.
    """

    images: Tensor
    fooled: Tensor


@dataclass(frozen=True, repr=False)
class PairAttack(Attack):
    """An untargeted attack on the images that a member classifies correctly, each pair by itself.

    Misclassified images, and those whose logits are not finite, stay as they are. A pair that is fooled leaves the
    list; what becomes of a pair does not depend on the others.

    Args:
        epsilon: largest change in the norm; for another norm than `linf` it must be given, as the run's is in `linf`.
        target: of no use to it: dropped, and refused; it has no spelling.
        norm: `linf`, `l2` or, where the attack has it, `l1`.
    """

    target: str = field(default="none", metadata=UNSPELLED)
    norm: str = "linf"

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    """The norms that the attack has."""

    def __post_init__(self) -> None:
        one_of("norm", self.norm, self.norms)
        super().__post_init__()
        one_of("target", self.target, ("none",))

    @property
    def farthest(self) -> float:
        return FARTHEST[self.norm]

    def __call__(self, networks: Classifier, images: Tensor, labels: Tensor, *, start: Start = Start()) -> Attacked:
        import torch

        from .pairs import Pairs

        self.check(images, start)
        clean_logits = networks.logits(images) if start.clean_logits is None else start.clean_logits
        chosen = self.loss_labels(clean_logits, labels, None)
        own = images.expand(*chosen.shape, *images.shape[-3:])
        right = (clean_logits.argmax(-1) == chosen) & clean_logits.isfinite().all(-1)
        draw = starts(networks, images, self.name) if start.draw is None else start.draw
        pairs = Pairs.where(networks, right, chosen, draw)
        clipped = own.clone()
        if len(pairs) and self.strength > 0:
            clipped[right] = self.attack_pairs(pairs, own[right], clean_logits[right]).images
        none = torch.zeros(len(chosen), dtype=torch.int64, device=images.device)
        return Attacked(
            images=images,
            clipped=clipped,
            labels=chosen,
            clean_logits=clean_logits,
            nan_gradients=none,
            zero_gradients=none,
            gradients=0,
        )

    @abstractmethod
    def attack_pairs(self, pairs: Pairs, clean: Tensor, clean_logits: Tensor) -> Found:
        """Attack pairs that are classified correctly.

        Args:
            pairs: P of them, at least one.
            clean: [P, C, H, W], their images.
            clean_logits: [P, Y], theirs.
        """
