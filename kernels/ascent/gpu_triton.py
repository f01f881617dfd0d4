"""Op ascent on a GPU: a program for a tile of a pair's pixels."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .gpu_kernels import ascent_kernel, keep_kernel

BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


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
    earlier = points if before is None else before
    given = [each.contiguous() for each in (points, earlier, gradients, clean, sizes)]
    reached = torch.empty(points.shape, dtype=points.dtype, device=points.device)
    pixels = points.shape[1:].numel()
    if reached.numel():
        with torch.cuda.device_of(points):
            numbers = (epsilon, weight, 1 - weight, low, high)
            ascent_kernel[_grid(points)](*given, reached, pixels, *numbers, before is not None, BLOCK, **OPTIONS)
    return reached


def keep_rows(kept: Tensor, values: Tensor, chosen: Tensor) -> None:
    """See `dispatch.keep_rows`."""
    if kept.numel():
        with torch.cuda.device_of(kept):
            given = (kept, values.contiguous(), chosen.contiguous().view(torch.uint8))
            keep_kernel[_grid(kept)](*given, kept.shape[1:].numel(), BLOCK, **OPTIONS)


def _grid(images: Tensor) -> tuple[int, int]:
    return len(images), triton.cdiv(images.shape[1:].numel(), BLOCK)
