"""Proposals of the square attack: squares at a corner of the l-infinity ball, or mass moved within the l2 ball.

Source: Andriushchenko, Croce, Flammarion, Hein 2020, "Square attack", algorithms 2 and 3.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from .norms import scaled

TINY = 1e-12


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
    def propose(self, drawn: Tensor, clean: Tensor, best: Tensor, share: float) -> Tensor:
        """Proposals [P, C, H, W] from random numbers [P, numbers], for squares with this share of the pixels."""

    def side(self, share: float) -> int:
        """Side of a square in pixels; no longer than the image."""
        wanted = max(round(math.sqrt(share * self.height * self.width)), self.least)
        return min(wanted, self.height, self.width)

    def places(self, drawn: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """First rows and columns int64 [P] of squares inside the image, from random numbers [P, 2]."""
        rows, columns = ((drawn.double() + 1) / 2).unbind(1)
        return (
            (rows * (self.height - side + 1)).long().clamp(max=self.height - side),
            (columns * (self.width - side + 1)).long().clamp(max=self.width - side),
        )


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

    def propose(self, drawn: Tensor, clean: Tensor, best: Tensor, share: float) -> Tensor:
        side = self.side(share)
        rows, columns = self.places(drawn[:, :2], side)
        inside = _within(rows, side, self.height)[:, :, None] & _within(columns, side, self.width)[:, None]
        corner = clean + self.epsilon * _signs(drawn[:, 2:])[:, :, None, None]
        return torch.where(inside[:, None], corner.clamp(*self.bounds), best)


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
        bumps = _bumps(side, drawn[:, -1], clean)[:, None] * _signs(drawn[:, :-1])[..., None, None]
        tiled = bumps.permute(0, 1, 2, 4, 3, 5).reshape(len(drawn), self.channels, down * side, across * side)
        change = tiled[..., : self.height, : self.width]
        return (clean + scaled(change, self.epsilon, "l2")).clamp(*self.bounds)

    def propose(self, drawn: Tensor, clean: Tensor, best: Tensor, share: float) -> Tensor:
        side = self.side(share)
        side = side if side % 2 or side == min(self.height, self.width) else side + 1
        change = best - clean
        to, giving = (self._square(*self.places(part, side), side) for part in (drawn[:, :2], drawn[:, 2:4]))
        own = change[to]
        both = torch.zeros_like(change, dtype=torch.bool)
        both[to] = both[giving] = True
        mass = (change * both).square().sum((2, 3))  # a channel
        spare = (self.epsilon**2 - change.square().sum((1, 2, 3))).clamp(min=0)
        bump = _bumps(side, drawn[:, 4], clean)[:, None] * _signs(drawn[:, 5:])[:, :, None, None]
        bump = bump + own / own.square().sum((2, 3), keepdim=True).sqrt().clamp(min=TINY)
        bump = bump / bump.square().sum((2, 3), keepdim=True).sqrt().clamp(min=TINY)
        change = torch.where(both, 0.0, change)
        change[to] = bump * (spare[:, None] / self.channels + mass).sqrt()[:, :, None, None]
        return (clean + scaled(change, self.epsilon, "l2")).clamp(*self.bounds)

    def _square(self, rows: Tensor, columns: Tensor, side: int) -> tuple[Tensor, ...]:
        """The index of each pair's square: [P, C, side, side] of a [P, C, H, W] tensor."""
        along = torch.arange(side, device=rows.device)
        pair = torch.arange(len(rows), device=rows.device)[:, None, None, None]
        channel = torch.arange(self.channels, device=rows.device)[None, :, None, None]
        return pair, channel, (rows[:, None] + along)[:, None, :, None], (columns[:, None] + along)[:, None, None, :]


PROPOSALS: dict[str, type[Proposals]] = {"linf": Corners, "l2": Bumps}


def _signs(drawn: Tensor) -> Tensor:
    """1 or -1, from numbers uniform in [-1, 1)."""
    return torch.where(drawn < 0, -1.0, 1.0).to(drawn.dtype)


def _within(first: Tensor, side: int, size: int) -> Tensor:
    """bool [P, size], whether a row or column is among the `side` ones from the first [P] on."""
    at = torch.arange(size, device=first.device)
    return (at >= first[:, None]) & (at < first[:, None] + side)


def _bumps(side: int, drawn: Tensor, like: Tensor) -> Tensor:
    """[..., side, side] of norm 1: a hill beside a valley of a square's halves, or below it, as the numbers decide."""
    half = side // 2
    bump = torch.cat([_hill(half, side), -_hill(side - half, side)]).to(like)
    bump = bump / bump.norm().clamp(min=TINY)
    return torch.where((drawn < 0)[..., None, None], bump, bump.T)


def _hill(height: int, width: int) -> Tensor:
    """[height, width] of norm 1: rectangles one in the other, whose heights fall as squares of their number."""
    hill = torch.zeros(height, width, dtype=torch.float64)
    top, left = height // 2, width // 2
    for ring in range(max(top, left) + 1):
        rows = slice(max(top - ring, 0), min(top + ring + 1, height))
        columns = slice(max(left - ring, 0), min(left + ring + 1, width))
        hill[rows, columns] += 1 / (ring + 1) ** 2
    return hill / hill.norm().clamp(min=TINY)
