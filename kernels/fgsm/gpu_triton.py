"""Op fgsm on a GPU: a shared image is loaded once for a group of members."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .gpu_kernels import apply_signs_kernel, fgsm_kernel

BLOCK = 1024
LARGEST_GROUP = 8
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def fgsm(
    images: Tensor,
    gradients: Tensor,
    epsilon: float,
    low: float,
    high: float,
    direction: int,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `dispatch._Fgsm`: images [1 or M, ...], gradients [M, ...]; dtype None asks for int8 signs."""
    images, gradients = images.contiguous(), gradients.contiguous()
    values = torch.empty_like(gradients, dtype=dtype or torch.int8)
    grid, sizes, shared, group = _grid(images, gradients)
    # Each program writes its own counts: integers, summed in any order, and nothing to clear beforehand.
    counts = torch.empty(len(gradients), grid[0], dtype=torch.int32, device=gradients.device)
    if gradients.numel():
        with torch.cuda.device_of(gradients):
            tensors, numbers = (images, gradients, values, counts), (epsilon, low, high, direction)
            fgsm_kernel[grid](*tensors, *sizes, *numbers, shared, dtype is None, group, BLOCK, **OPTIONS)
    return values, (counts >> 16).sum(1), (counts & 0xFFFF).sum(1)


def apply_signs(images: Tensor, signs: Tensor, epsilon: float, low: float, high: float, dtype: torch.dtype) -> Tensor:
    """See `dispatch._ApplySigns`: images [1 or M, ...], signs [M, ...]."""
    images, signs = images.contiguous(), signs.contiguous()
    values = torch.empty_like(signs, dtype=dtype)
    grid, sizes, shared, group = _grid(images, signs)
    if signs.numel():
        with torch.cuda.device_of(signs):
            apply_signs_kernel[grid](images, signs, values, *sizes, epsilon, low, high, shared, group, BLOCK, **OPTIONS)
    return values


def _grid(images: Tensor, directions: Tensor) -> tuple[tuple[int, int], tuple[int, int], bool, int]:
    members, pixels, shared = len(directions), directions.shape[1:].numel(), len(images) == 1
    group = min(LARGEST_GROUP, triton.next_power_of_2(members)) if shared else 1
    return (triton.cdiv(pixels, BLOCK), triton.cdiv(members, group)), (members, pixels), shared, group
