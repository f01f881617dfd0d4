"""Op projection on a GPU: a program for a pair, which holds its pixels in registers."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import reference
from .gpu_kernels import boundary_kernel

MOST_PIXELS = 4096
"""Of an image that a program holds; larger ones are left to plain torch."""

WARP_PIXELS = 256  # of a warp; more of them would not fit into its registers


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
    pixels = points.shape[1:].numel()
    if pixels > MOST_PIXELS:
        with torch.no_grad():
            return reference.boundary_step(points, clean, normals, values, norm, alpha, eta, low, high)
    reached = torch.empty(points.shape, dtype=points.dtype, device=points.device)
    if reached.numel():
        given = [each.contiguous() for each in (points, clean, normals, values)]
        block = max(16, triton.next_power_of_2(pixels))
        with torch.cuda.device_of(points):
            numbers = (alpha, eta, low, high)
            options = {"num_warps": max(4, block // WARP_PIXELS), "enable_fp_fusion": False}
            boundary_kernel[(len(points),)](*given, reached, pixels, *numbers, norm, block, **options)
    return reached
