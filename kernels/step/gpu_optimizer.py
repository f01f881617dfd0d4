"""Adam, and SGD with momentum, as one Triton launch over the parameters of all members."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .gpu_kernels_optimizer import adam_kernel, sgd_kernel

BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


def tiles(segments: Iterable[tuple[int, int, int]]) -> Tensor:
    """Table int64 [T, 3] of first element, end and member for segments given likewise, cut into blocks."""
    table = [(at, min(at + BLOCK, end), member) for start, end, member in segments for at in range(start, end, BLOCK)]
    return torch.tensor(table, dtype=torch.int64, device="cpu").reshape(-1, 3)


def launch_adam(
    table: Tensor,
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    steps: Tensor,
    rates: Tensor,
    *,
    copy: Tensor | None = None,
    aligned: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> None:
    """One update of all parameters in place, without a synchronization. The step counts stay as they are.

    Args:
        table: as `tiles` makes it, on the device.
        parameters, gradients, first, second: float32 [P].
        steps: int64 [M], updates that each member had before this one.
        rates: learning rates float64 [M].
        copy: [P] of another dtype, for the new parameters; None for no copy.
        aligned: whether every start and end in the table is a multiple of 16.
        betas, epsilon: of Adam.
    """
    tensors = (parameters, gradients, first, second, parameters if copy is None else copy, table, steps, rates)
    numbers = (*betas, *map(math.log, betas), epsilon)
    kind = (aligned, copy is not None, BLOCK)
    adam_kernel[(len(table),)](*tensors, *numbers, *kind, **OPTIONS)


def launch_sgd(
    table: Tensor,
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    rates: Tensor,
    *,
    momentum: float,
    copy: Tensor | None = None,
    aligned: bool = False,
) -> None:
    """As `launch_adam`, for stochastic gradient descent with momentum."""
    tensors = (parameters, gradients, first, parameters if copy is None else copy, table, rates)
    sgd_kernel[(len(table),)](*tensors, momentum, aligned, copy is not None, BLOCK, **OPTIONS)
