"""Work lists of (member, image) pairs: what is still to be attacked, whoever's it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from atras.networks import Classifier, Cotangent

    from .attack import Draw


@dataclass(frozen=True)
class Pairs:
    """P (member, image) pairs in the order of the members: a batch in which a pair that is lost costs nothing more.

    Args:
        networks: all M members.
        member: int64 [P], ascending.
        image: int64 [P], each pair's place among the B images that are attacked.
        labels: int64 [P], the class to be left.
        draw: random starts of the images.
    """

    networks: Classifier
    member: Tensor
    image: Tensor
    labels: Tensor
    draw: Draw

    @classmethod
    def where(cls, networks: Classifier, wanted: Tensor, labels: Tensor, draw: Draw) -> Self:
        """The pairs that are wanted, bool [M, B], with the labels [M, B] to be left."""
        member, image = wanted.nonzero(as_tuple=True)
        return cls(networks, member, image, labels[wanted], draw)

    def __len__(self) -> int:
        return len(self.member)

    @property
    def counts(self) -> Tensor:
        """int64 [M] on the CPU, how many pairs each member has."""
        return torch.bincount(self.member, minlength=len(self.networks.members)).cpu()

    def logits(self, images: Tensor) -> Tensor:
        """[P, Y] of the pairs' images [P, C, H, W]."""
        return self.networks.logits(images, self.counts)

    def gradient(self, images: Tensor, cotangent: Cotangent) -> tuple[Tensor, Tensor]:
        """Gradient [P, C, H, W] of an objective of logits [P, Y] by the pairs' images, and the logits it came from."""
        return self.networks.gradient(images, cotangent, self.counts)

    def only(self, kept: Tensor) -> Self:
        """Those that a mask bool [P] keeps."""
        return replace(self, member=self.member[kept], image=self.image[kept], labels=self.labels[kept])

    def drawing_from(self, first: int) -> Self:
        """The same pairs, whose draw 0 is what draw `first` was."""

        def draw(number: int, shape: Sequence[int] | None = None) -> Tensor:
            return self.draw(first + number, shape)

        return replace(self, draw=draw)

    def of(self, values: Tensor) -> Tensor:
        """Each pair's own of values [M, B, ...]."""
        return values[self.member, self.image]

    def drawn(self, number: int, shape: Sequence[int]) -> Tensor:
        """[P, *shape], uniform in [-1, 1): draw `number` of each pair's seed and image."""
        return self.of_drawn(self.draw(number, shape), len(shape))

    def of_drawn(self, values: Tensor, axes: int = 2) -> Tensor:
        """[P, ...], each pair's own of a draw [B, ...], or [M, B, ...], whose images have so many axes."""
        return self.of(values) if values.ndim == 2 + axes else values[self.image]
