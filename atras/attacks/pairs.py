"""Work lists of (member, image) pairs: what is still to be attacked, whoever's it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self, cast

import torch
from torch import Tensor

from .attack import nowhere

if TYPE_CHECKING:
    from atras.networks import Classifier, Cotangent

    from .attack import Draw, Start


@dataclass(frozen=True)
class Pairs:
    """P (member, image) pairs in the order of the members: a batch in which a pair that is lost costs nothing more.

    Args:
        networks: all M members.
        member: int64 [P], ascending.
        image: int64 [P], each pair's place among the B images that are attacked.
        labels: int64 [P], the class to be left.
        start: of the attack, with its random starts.
        spent: int64 [2, M, B], forward passes and gradients of each pair, counted as they are taken.
        signs: bool [2, M, B], pairs that had no gradient where a run began, and pairs that a run left while they rose.
        first: number of the draw that is taken for draw 0.
    """

    networks: Classifier
    member: Tensor
    image: Tensor
    labels: Tensor
    start: Start
    spent: Tensor
    signs: Tensor
    first: int = 0

    @classmethod
    def where(cls, networks: Classifier, wanted: Tensor, labels: Tensor, start: Start) -> Self:
        """The pairs that are wanted, bool [M, B], with the labels [M, B] to be left."""
        member, image = wanted.nonzero(as_tuple=True)
        spent = torch.zeros(2, *wanted.shape, dtype=torch.int64, device=wanted.device)
        signs = torch.zeros(2, *wanted.shape, dtype=torch.bool, device=wanted.device)
        return cls(networks, member, image, labels[wanted], start, spent, signs)

    def __len__(self) -> int:
        return len(self.member)

    @cached_property
    def counts(self) -> Tensor:
        """int64 [M] on the CPU, how many pairs each member has."""
        return torch.bincount(self.member, minlength=len(self.networks.members)).cpu()

    def logits(self, images: Tensor, lost: Tensor | None = None) -> Tensor:
        """[P, Y] of the pairs' images [P, C, H, W]; `lost` as of `gradient`."""
        self._count(0, self._once if lost is None else (~lost).long())
        return self.networks.logits(images, self.counts)

    def gradient(self, images: Tensor, cotangent: Cotangent, lost: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gradient [P, C, H, W] of an objective of logits [P, Y] by the pairs' images, and the logits it came from.

        Args:
            images: [P, C, H, W].
            cotangent: of the objective.
            lost: bool [P], pairs that only wait to be dropped, and spend nothing; None for none.
        """
        self._count(1, self._once if lost is None else (~lost).long())
        return self.networks.gradient(images, cotangent, self.counts)

    def note_blind(self, gradient: Tensor) -> None:
        """Note the pairs whose gradient [P, C, H, W] at the beginning of a run is zero in every pixel."""
        self.signs[0].view(-1)[self._places] |= nowhere(gradient[None])[0]

    def note_rising(self, rising: Tensor) -> None:
        """Note pairs, bool [P], whose run ended before its time."""
        self.signs[1].view(-1)[self._places] |= rising

    def _count(self, what: int, passes: Tensor) -> None:
        """Add passes int64 [P] to what the pairs have spent; by places, which takes a third of the time of indices."""
        self.spent[what].view(-1).index_add_(0, self._places, passes)

    @cached_property
    def _places(self) -> Tensor:
        """int64 [P], of the pairs among M x B."""
        return self.member * self.spent.shape[-1] + self.image

    @cached_property
    def _once(self) -> Tensor:
        return torch.ones_like(self.member)

    def only(self, kept: Tensor) -> Self:
        """Those that a mask bool [P] keeps, or that are at the places int64 [K], ascending."""
        return replace(self, member=self.member[kept], image=self.image[kept], labels=self.labels[kept])

    def drawing_from(self, first: int) -> Self:
        """The same pairs, whose draw 0 is what draw `first` was."""
        return replace(self, first=self.first + first)

    def wrong_classes(self, logits: Tensor) -> Tensor:
        """int64 [P, K - 1], of logits [P, Y] the K classes that occur but for the pair's label, the likeliest first."""
        others = self.start.of_classes(logits.scatter(-1, self.labels[:, None], -torch.inf))
        order = others.argsort(dim=-1, descending=True, stable=True)
        return self.start.class_at(order[:, : others.shape[-1] - 1])

    def of(self, values: Tensor) -> Tensor:
        """Each pair's own of values [M, B, ...]."""
        return values[self.member, self.image]

    def draw(self, number: int, shape: Sequence[int]) -> Tensor:
        """[B, *shape] or [M, B, *shape], uniform in [-1, 1): draw `number` of all seeds and images."""
        return cast("Draw", self.start.draw)(self.first + number, shape)

    def drawn(self, number: int, shape: Sequence[int]) -> Tensor:
        """[P, *shape], each pair's own of that draw."""
        return self.of_drawn(self.draw(number, shape), len(shape))

    def of_drawn(self, values: Tensor, axes: int) -> Tensor:
        """[P, ...], each pair's own of a draw [B, ...], or [M, B, ...], whose images have so many axes."""
        return self.of(values) if values.ndim == 2 + axes else values[self.image]
