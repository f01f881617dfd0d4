"""Proposals of the square attack: squares at a corner of the l-infinity ball, or mass moved within the l2 ball.

Source: Andriushchenko, Croce, Flammarion, Hein 2020, "Square attack", algorithms 2 and 3.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from atras.kernels import propose_bumps, propose_corners

from .norms import TINY, scaled


class Images(NamedTuple):
    """What proposals are made of and in.

    Args:
        tried: [P, C, H, W], the best images; they become the proposals.
        best, clean: [P, C, H, W].
        spent: float64 [P], the squared l2 norms of best - clean, where proposals count them.
    """

    tried: Tensor
    best: Tensor
    clean: Tensor
    spent: Tensor


class Proposals(ABC):
    """How one norm's starting points and proposals are made of random numbers, uniform in [-1, 1).

    Args:
        epsilon: radius of the ball.
        bounds: range of pixels.
        shape: (C, H, W) of an image.
    """

    least: ClassVar[int]
    """Shortest side of a square."""

    def __init__(self, epsilon: float, bounds: tuple[float, float], shape: Sequence[int]) -> None:
        self.epsilon, self.bounds = epsilon, bounds
        self.channels, self.height, self.width = shape

    @property
    @abstractmethod
    def start_shape(self) -> tuple[int, ...]:
        """Random numbers of a starting point."""

    @property
    @abstractmethod
    def numbers(self) -> int:
        """Random numbers of a proposal."""

    @abstractmethod
    def start(self, drawn: Tensor, clean: Tensor) -> Tensor:
        """Starting points [P, C, H, W] from random numbers [P, *start_shape]."""

    @abstractmethod
    def propose(self, images: Images, drawn: Tensor, side: int) -> Tensor | None:
        """Make proposals in place, of random numbers [P, numbers], with squares of this side.

        Returns:
            The squared norms [P] of the proposals' changes; None where proposals do not count them.
        """

    def side(self, share: float) -> int:
        """Side of a square in pixels; no longer than the image."""
        wanted = max(round(math.sqrt(share * self.height * self.width)), self.least)
        return min(wanted, self.height, self.width)


class Corners(Proposals):
    """In l-infinity: every pixel is epsilon above or below the clean image, and squares of one colour change sides."""

    least = 1

    @property
    def start_shape(self) -> tuple[int, ...]:
        return (self.channels, 1, self.width)

    @property
    def numbers(self) -> int:
        return 2 + self.channels

    def start(self, drawn: Tensor, clean: Tensor) -> Tensor:
        return (clean + self.epsilon * _signs(drawn)).clamp(*self.bounds)

    def propose(self, images: Images, drawn: Tensor, side: int) -> None:
        propose_corners(images.tried, images.clean, drawn, side=side, epsilon=self.epsilon, bounds=self.bounds)


class Bumps(Proposals):
    """In l2: what one square's pixels have of the change, and what is left of epsilon, goes to a bump in another."""

    least = 3

    @property
    def tile(self) -> int:
        """Side of the squares that a starting point is tiled with: five to the height."""
        return max(self.height // 5, 1)

    @property
    def start_shape(self) -> tuple[int, ...]:
        return (self.channels + 1, -(-self.height // self.tile), -(-self.width // self.tile))

    @property
    def numbers(self) -> int:
        return 5 + self.channels

    def start(self, drawn: Tensor, clean: Tensor) -> Tensor:
        side, (_, down, across) = self.tile, self.start_shape
        bumps = _bumps(side, clean.dtype, clean.device)[(drawn[:, -1] >= 0).long()]
        bumps = bumps[:, None] * _signs(drawn[:, :-1])[..., None, None]
        tiled = bumps.permute(0, 1, 2, 4, 3, 5).reshape(len(drawn), self.channels, down * side, across * side)
        change = tiled[..., : self.height, : self.width]
        return (clean + scaled(change, self.epsilon, "l2")).clamp(*self.bounds)

    def side(self, share: float) -> int:
        """An odd one, or that of the whole image."""
        side = super().side(share)
        return side if side % 2 or side == min(self.height, self.width) else side + 1

    def propose(self, images: Images, drawn: Tensor, side: int) -> Tensor:
        bumps = _bumps(side, images.clean.dtype, images.clean.device)
        return propose_bumps(*images, drawn, bumps, epsilon=self.epsilon, bounds=self.bounds)


PROPOSALS: dict[str, type[Proposals]] = {"linf": Corners, "l2": Bumps}


def _signs(drawn: Tensor) -> Tensor:
    """1 or -1, from numbers uniform in [-1, 1)."""
    return torch.where(drawn < 0, -1.0, 1.0).to(drawn.dtype)


@cache
def _bumps(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[2, side, side], each of norm 1: a hill above a valley, and the same beside one another."""
    half = side // 2
    bump = torch.cat([_hill(half, side), -_hill(side - half, side)]).to(device, dtype)
    bump = bump / bump.norm().clamp(min=TINY)
    return torch.stack([bump, bump.T])


def _hill(height: int, width: int) -> Tensor:
    """[height, width] of norm 1: rectangles one in the other, whose heights fall as squares of their number."""
    hill = torch.zeros(height, width, dtype=torch.float64, device="cpu")
    top, left = height // 2, width // 2
    for ring in range(max(top, left) + 1):
        rows = slice(max(top - ring, 0), min(top + ring + 1, height))
        columns = slice(max(left - ring, 0), min(left + ring + 1, width))
        hill[rows, columns] += 1 / (ring + 1) ** 2
    return hill / hill.norm().clamp(min=TINY)
