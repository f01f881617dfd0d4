"""Op square on a GPU: a program a pair, as a square has few pixels."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .gpu_kernels import bumps_kernel, corners_kernel, keep_kernel

LARGEST_BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def propose_corners(
    tried: Tensor, clean: Tensor, drawn: Tensor, side: int, epsilon: float, low: float, high: float
) -> None:
    """See `dispatch.propose_corners`."""
    clean, drawn = clean.contiguous(), drawn.contiguous()
    if len(tried):
        with torch.cuda.device_of(tried):
            numbers = (side, epsilon, low, high, _block(side))
            corners_kernel[(len(tried),)](tried, clean, drawn, *tried.shape[1:], *numbers, **OPTIONS)


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
    best, clean, spent, drawn, bumps = (each.contiguous() for each in (best, clean, spent, drawn, bumps))
    after = torch.empty_like(spent)
    if len(tried):
        with torch.cuda.device_of(tried):
            tensors = (tried, best, clean, spent, after, drawn, bumps)
            numbers = (bumps.shape[1], epsilon, low, high, _block(bumps.shape[1]))
            bumps_kernel[(len(tried),)](*tensors, *tried.shape[1:], *numbers, **OPTIONS)
    return after


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
    logits, labels, drawn = logits.contiguous(), labels.contiguous(), drawn.contiguous()
    norms = (values, values) if spent is None else (spent[0], spent[1].contiguous())
    if len(best):
        with torch.cuda.device_of(best):
            tensors = (best, tried, values, logits, labels, drawn, *norms)
            numbers = (logits.shape[1], drawn.shape[1], side)
            blocks = (triton.next_power_of_2(max(logits.shape[1], 1)), _block(side))
            keep_kernel[(len(best),)](*tensors, *best.shape[1:], *numbers, spent is not None, *blocks, **OPTIONS)


def _block(side: int) -> int:
    """Pixels of a square that are computed at once."""
    return min(triton.next_power_of_2(side * side), LARGEST_BLOCK)
