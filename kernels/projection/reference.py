"""Steps onto linearised boundaries in plain torch: the definition.

Source: Croce, Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack", algorithm 1,
and appendix A for projections onto hyperplanes inside a box.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_CHANGE = 1e-8
"""Smallest distance that two steps are weighed by."""


def boundary_step(
    points: Tensor,
    clean: Tensor,
    normals: Tensor,
    values: Tensor,
    norm: str,
    alpha: float,
    eta: float,
    low: float,
    high: float,
) -> Tensor:
    """See `dispatch.boundary_step`."""
    normals = normals.masked_fill(normals.isnan(), 0.0)
    from_image = values + (normals * (clean - points)).flatten(1).sum(1)
    # Both projections in one list.
    starts, offsets = torch.cat([points, clean]), torch.cat([values, from_image])
    changes = to_hyperplane(starts, torch.cat([normals, normals]), offsets, norm, (low, high))
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    sizes = torch.linalg.vector_norm(changes.flatten(1), ord=order, dim=1).clamp(min=LEAST_CHANGE)
    (own, biased), (size, other) = changes.chunk(2), sizes.chunk(2)
    weight = (size / (size + other)).clamp(max=alpha)[:, None, None, None]
    return ((points + eta * own) * (1 - weight) + (clean + eta * biased) * weight).clamp(low, high)


def to_hyperplane(points: Tensor, normals: Tensor, offsets: Tensor, norm: str, bounds: tuple[float, float]) -> Tensor:
    """The smallest changes [P, C, H, W] that bring points onto hyperplanes, or as near as the bounds let them.

    Args:
        points, normals: [P, C, H, W]; the points within the bounds.
        offsets: [P], signed: sum(normal * point) less the hyperplane's constant.
        norm: in which the changes are small.
        bounds: of what the points become.
    """
    towards = -offsets.sign()[:, None, None, None] * normals.sign()
    low, high = bounds
    room = torch.where(towards > 0, high - points, points - low).flatten(1).clamp(min=0)
    weights, wanted = normals.abs().flatten(1), offsets.abs()
    moves = _filled(weights, room, wanted) if norm == "l1" else _even(weights, room, wanted, norm)
    return moves.view_as(points) * towards


def _even(weights: Tensor, room: Tensor, wanted: Tensor, norm: str) -> Tensor:
    """Moves [P, D] within their room with sum(weights * moves) = wanted, of the least linf or l2 norm.

    They are min(t * rate, room) with rates 1 or the weights. The sum is concave in t, so Newton's steps from 0 come
    from below, and end exactly: each but the last uses up the room of a pixel at least, usually of many.
    """
    rates = torch.ones_like(weights) if norm == "linf" else weights
    gains, full = weights * rates, weights * room
    t = torch.zeros_like(wanted)
    free = room > 0
    for _ in range(weights.shape[1]):
        slope = torch.where(free, gains, 0.0).sum(1)
        fixed = torch.where(free, 0.0, full).sum(1)
        t = torch.where(slope > 0, (wanted - fixed) / slope, t).maximum(t)
        still = free & (t[:, None] * rates < room)
        if torch.equal(still, free):
            break
        free = still
    exhausted = (t[:, None] * rates >= room).all(1, keepdim=True)
    return torch.where(exhausted, room, (t[:, None] * rates).minimum(room))


def _filled(weights: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """The same of the least l1 norm: the pixels of highest weight, of equals the first, are moved as far as they go."""
    ordered, order = torch.sort(weights, dim=1, descending=True, stable=True)
    parts = ordered * room.gather(1, order)
    before = parts.cumsum(1) - parts
    taken = (wanted[:, None] - before).clamp(min=0).minimum(parts)
    moves = torch.where(ordered > 0, taken / ordered, 0.0)
    return torch.zeros_like(weights).scatter_(1, order, moves)
