"""Steps of projected gradient ascent with momentum in plain torch: the definition."""

from __future__ import annotations

import torch
from torch import Tensor


def ascent_step(
    points: Tensor,
    before: Tensor | None,
    gradients: Tensor,
    clean: Tensor,
    sizes: Tensor,
    epsilon: float,
    weight: float,
    low: float,
    high: float,
) -> Tensor:
    """See `dispatch.ascent_step`."""
    least, most = clean - epsilon, clean + epsilon
    direction = torch.nan_to_num(gradients.sign())
    reached = torch.clamp(points + sizes[:, None, None, None] * direction, least, most).clamp(low, high)
    if before is None:
        return reached
    moved = points + weight * (reached - points) + (1 - weight) * (points - before)
    return torch.clamp(moved, least, most).clamp(low, high)


@torch.no_grad()
def keep_rows(kept: Tensor, values: Tensor, chosen: Tensor) -> None:
    """See `dispatch.keep_rows`."""
    kept.copy_(torch.where(chosen.view(-1, *[1] * (kept.ndim - 1)), values, kept))
