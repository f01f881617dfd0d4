"""Op dropout on a GPU: a program draws whole blocks of 16 bytes."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .gpu_kernels import dropout_kernel
from .positions import dense, positions

BLOCKS = 64
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def dropout(x: Tensor, key: Tensor, step: Tensor, width: Tensor | None, layer: int, rate256: int) -> Tensor:
    """See `dispatch._Dropout`: x [M, B, F] or [M, B, C, H, W], key, step and width [M]."""
    x, planar = dense(x)
    members, size = len(x), x.shape[1:].numel()
    if size >= 2**31 - 16 * BLOCKS:
        raise ValueError(f"dropout: expected fewer than {2**31 - 16 * BLOCKS} elements a member, got {size}; split x")
    y = torch.empty_like(x) if width is None else torch.zeros_like(x)
    if x.numel():
        tensors = (x, y, key.contiguous(), step.contiguous(), key if width is None else width.contiguous())
        numbers = (256 / (256 - rate256), layer, rate256)
        kind = (width is not None, planar, BLOCKS)
        with torch.cuda.device_of(x):
            grid = (triton.cdiv(size, 16 * BLOCKS), members)
            dropout_kernel[grid](*tensors, *positions(x), *numbers, *kind, **OPTIONS)
    return y
