"""FGSM's pixel update in plain torch: the definition."""

from __future__ import annotations

import torch
from torch import Tensor


def to_pixels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images as pixels of [0, 1]: uint8 divided by 255, correctly rounded; floats as they are."""
    return images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)


def signs(gradients: Tensor, direction: int) -> Tensor:
    """The gradient's sign times direction as int8; 0 where it is NaN."""
    return direction * ((gradients > 0).to(torch.int8) - (gradients < 0).to(torch.int8))


def apply_signs(
    images: Tensor, signs: Tensor, epsilon: float | Tensor, low: float, high: float, dtype: torch.dtype
) -> Tensor:
    """clamp(pixel + epsilon * sign, low, high) in `dtype`, epsilon one number or [M]; a NaN pixel stays NaN."""
    if isinstance(epsilon, Tensor):
        epsilon = epsilon.to(signs.device, dtype).view(-1, *[1] * (signs.ndim - 1))
    return (to_pixels(images, dtype) + epsilon * signs.to(dtype)).clamp(low, high)


def counts(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of NaN and of zero gradients [M, ...] of each member, int64 [M] each."""
    return gradients.isnan().flatten(1).sum(1), (gradients == 0).flatten(1).sum(1)
