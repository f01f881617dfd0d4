"""The square attack's proposals and comparison in plain torch: the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from ..step.objectives import margin

TINY = 1e-12


def first_of(drawn: Tensor, side: int, size: int) -> Tensor:
    """First rows or columns, int64 of the same shape, of squares within an image, from numbers uniform in [-1, 1)."""
    at = (drawn.double() + 1) / 2 * (size - side + 1)
    return at.long().clamp(0, size - side)


def inside(drawn: Tensor, side: int, images: Tensor) -> Tensor:
    """bool [P, 1, H, W], the pixels of the squares that numbers [P, 2] place in images [P, C, H, W]."""
    sizes = zip(drawn.unbind(1), images.shape[-2:], strict=True)
    down, across = (_within(first_of(own, side, size), side, size) for own, size in sizes)
    return (down[:, :, None] & across[:, None])[:, None]


def _within(first: Tensor, side: int, size: int) -> Tensor:
    """bool [P, size], whether a row or column is among the `side` ones from the first [P] on."""
    at = torch.arange(size, dtype=torch.int64, device=first.device)
    return (at >= first[:, None]) & (at < first[:, None] + side)


def signs(drawn: Tensor) -> Tensor:
    """1 or -1, from numbers uniform in [-1, 1)."""
    return torch.where(drawn < 0, -1.0, 1.0).to(drawn.dtype)


def propose_corners(
    tried: Tensor, clean: Tensor, drawn: Tensor, side: int, epsilon: float, low: float, high: float
) -> None:
    """See `dispatch.propose_corners`."""
    corner = (clean + epsilon * signs(drawn[:, 2:])[:, :, None, None]).clamp(low, high)
    tried.copy_(torch.where(inside(drawn[:, :2], side, clean), corner, tried))


def propose_bumps(
    tried: Tensor,
    best: Tensor,
    clean: Tensor,
    spent: Tensor,
    drawn: Tensor,
    bumps: Tensor,
    epsilon: float,
    low: float,
    high: float,
) -> Tensor:
    """See `dispatch.propose_bumps`."""
    side, channels = bumps.shape[1], clean.shape[1]
    to, giving = (inside(drawn[:, first : first + 2], side, clean) for first in (0, 2))
    change = best.double() - clean.double()
    mass = (change * (to | giving)).square().sum((2, 3))  # of a channel
    own = _only(change, to, side)
    own = own / own.square().sum((2, 3), keepdim=True).sqrt().clamp(min=TINY)
    bump = bumps[(drawn[:, 4] >= 0).long()].double()
    shape = bump[:, None] * signs(drawn[:, 5:]).double()[:, :, None, None] + own
    shape = shape / shape.square().sum((2, 3), keepdim=True).sqrt().clamp(min=TINY)
    spare = epsilon**2 - spent
    made = shape * (spare[:, None] / channels + mass).clamp(min=0).sqrt()[:, :, None, None]
    change = torch.where(giving, 0.0, change).masked_scatter(to.expand_as(change), made)
    made = (clean + change).clamp(low, high).to(clean.dtype)
    tried.copy_(torch.where(to | giving, made, tried))
    new = ((made.double() - clean.double()) * (to | giving)).square().sum((1, 2, 3))
    return spent - mass.sum(1) + new


def _only(values: Tensor, within: Tensor, side: int) -> Tensor:
    """[P, C, side, side], the values [P, C, H, W] of each pair's square."""
    return values[within.expand_as(values)].view(*values.shape[:2], side, side)


def keep_better(
    best: Tensor,
    tried: Tensor,
    values: Tensor,
    logits: Tensor,
    labels: Tensor,
    drawn: Tensor,
    side: int,
    spent: tuple[Tensor, Tensor] | None,
) -> None:
    """See `dispatch.keep_better`."""
    value = margin(logits, labels)
    better = (value > values) & ~(values > 0)
    touched = inside(drawn[:, :2], side, best)
    if spent is not None:
        touched = touched | inside(drawn[:, 2:4], side, best)
        spent[0].copy_(torch.where(better, spent[1], spent[0]))
    wide = better[:, None, None, None]
    best.copy_(torch.where(touched & wide, tried, best))
    tried.copy_(torch.where(touched & ~wide, best, tried))
    values.copy_(torch.where(better, value, values))
