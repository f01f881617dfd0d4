"""Geometry of threat models: norms and balls inside the range of pixels, for lists of images [P, C, H, W].

Source: Croce, Hein 2021, "Mind the box" (section 2, the l1 ball inside a box).
"""

from __future__ import annotations

import torch
from torch import Tensor

NORMS = ("linf", "l2", "l1")
TINY = 1e-12


def norm_of(change: Tensor, norm: str) -> Tensor:
    """[P], the norm of changes [P, C, H, W]."""
    flat = change.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    return torch.linalg.vector_norm(flat, ord=1 if norm == "l1" else 2, dim=1)


def normal_of(draw: Tensor) -> Tensor:
    """Normally distributed numbers of variance 1, float64, from a draw of the same shape that is uniform in [-1, 1)."""
    return torch.erfinv(draw.double().clamp(-1 + 2**-25, 1 - 2**-25)) * 2**0.5


def random_point(draw: Tensor, clean: Tensor, epsilon: float, norm: str, bounds: tuple[float, float]) -> Tensor:
    """Random points [P, C, H, W] of the balls, from a draw [P, C, H, W] that is uniform in [-1, 1).

    In `linf` the largest change is epsilon, in `l2` the norm is, in a normally distributed direction; in `l1` it is a
    normally distributed change that is projected. All are clipped to the bounds.
    """
    if norm == "linf":
        return (clean + scaled(draw, epsilon, norm)).clamp(*bounds)
    normal = normal_of(draw).to(clean.dtype)
    if norm == "l2":
        return (clean + scaled(normal, epsilon, norm)).clamp(*bounds)
    return projected(clean + normal, clean, epsilon, norm, bounds)


def near_one(gradients: Tensor) -> Tensor:
    """Gradients [P, C, H, W], NaN as 0, each times a power of two by which its largest pixel is from 0.5 to 1.

    Of these no square vanishes or overflows, as those of numbers below 1e-23 do in float32. Nothing is rounded: where
    `scaled` is exact for a gradient itself, it has the same bits for this.
    """
    known = torch.nan_to_num(gradients, nan=0.0)
    largest = norm_of(known, "linf").clamp(min=torch.finfo(known.dtype).tiny)
    power = torch.exp2(-torch.frexp(largest).exponent.to(known.dtype))
    return known * power[:, None, None, None]


def scaled(directions: Tensor, sizes: Tensor | float, norm: str) -> Tensor:
    """Directions [P, C, H, W] at these norms [P]; those of a norm below `TINY` stay below them."""
    factors = sizes / norm_of(directions, norm).clamp(min=TINY)
    return directions * factors[:, None, None, None]


def projected(points: Tensor, clean: Tensor, epsilon: Tensor | float, norm: str, bounds: tuple[float, float]) -> Tensor:
    """Points [P, C, H, W] brought into the ball of epsilon [P] around the clean images, and into the bounds.

    For `linf` and `l1` it is the nearest point of both; for `l2` the nearest of the ball, then clipped, which stays in
    the ball.
    """
    if norm == "linf":
        own = epsilon[:, None, None, None] if isinstance(epsilon, Tensor) else epsilon
        return torch.clamp(points, clean - own, clean + own).clamp(*bounds)
    change = points - clean
    if norm == "l2":
        return (clean + scaled(change, norm_of(change, norm).clamp(max=epsilon), norm)).clamp(*bounds)
    sizes = change.abs().flatten(1).double()
    room = _room(clean, change, bounds).double()
    kept = (sizes - _threshold(sizes, room, epsilon)[:, None]).clamp(min=0).minimum(room)
    return (clean + (kept.to(points.dtype).view_as(points) * change.sign())).clamp(*bounds)


def _threshold(sizes: Tensor, room: Tensor, epsilon: Tensor | float) -> Tensor:
    """[P], the least t of at least 0 with sum(min(max(sizes - t, 0), room)) <= epsilon.

    The sum falls in t, along straight lines between the points where a pixel begins to give way and where it is gone.
    """
    begins = (sizes - room).clamp(min=0)
    points, order = torch.cat([begins, sizes], 1).sort(1)
    steps = torch.cat([torch.ones_like(sizes), -torch.ones_like(sizes)], 1).gather(1, order)
    moving = steps.cumsum(1)  # pixels that give way from each point on
    total = sizes.minimum(room).sum(1)
    falls = moving[:, :-1] * points.diff(dim=1)
    values = torch.cat([total[:, None], total[:, None] - falls.cumsum(1)], 1)  # at each point
    least = epsilon[:, None] if isinstance(epsilon, Tensor) else epsilon
    last = ((values >= least).sum(1) - 1).clamp(min=0)[:, None]
    at, value, slope = (part.gather(1, last)[:, 0] for part in (points, values, moving))
    beyond = at + (value - epsilon) / slope.clamp(min=1)
    return torch.where(total <= epsilon, 0.0, beyond)


def _room(points: Tensor, directions: Tensor, bounds: tuple[float, float]) -> Tensor:
    """[P, D], how far each pixel can go in the direction of its sign."""
    low, high = bounds
    return torch.where(directions > 0, high - points, points - low).flatten(1).clamp(min=0)
