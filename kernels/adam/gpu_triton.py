"""Adam, and SGD with momentum, as one Triton launch over the parameters of all members."""

# No `from __future__ import annotations`: Triton reads the annotations.
import math
from collections.abc import Iterable

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


def tiles(segments: Iterable[tuple[int, int, int]]) -> Tensor:
    """Table int64 [T, 3] of first element, end and member for segments given likewise, cut into blocks."""
    found = [(at, min(at + BLOCK, end), member) for start, end, member in segments for at in range(start, end, BLOCK)]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)


@triton.jit
def one_minus_exp(x):
    """1 - e**x for x < 0, to float32's precision near 0 too, and without the slow double precision."""
    series = 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7 * (1 + x / 8))))))
    return tl.where(x > -0.5, -x * series, 1 - tl.exp(x))


@triton.jit
def adam_kernel(
    p_parameters,
    p_gradients,
    p_first,
    p_second,
    p_copy,
    p_tiles,
    p_steps,
    p_rates,
    beta1: tl.float64,
    beta2: tl.float64,
    log1: tl.float64,
    log2: tl.float64,
    epsilon: tl.float64,
    ALIGNED: tl.constexpr,
    COPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    p_tile = p_tiles + tl.program_id(0) * 3
    start, end, member = tl.load(p_tile), tl.load(p_tile + 1), tl.load(p_tile + 2)
    if ALIGNED:
        start, end = tl.multiple_of(start, 16), tl.multiple_of(end, 16)
    i_at = start + tl.arange(0, BLOCK)
    inside = i_at < end
    # The interpreter hands over plain numbers, which `full` makes tensors of.
    beta1, beta2 = tl.full((1,), beta1, tl.float64), tl.full((1,), beta2, tl.float64)
    step = (tl.load(p_steps + member) + 1).to(tl.float32)
    size = tl.load(p_rates + member).to(tl.float32) / one_minus_exp(step * tl.full((1,), log1, tl.float32))
    root = tl.sqrt(one_minus_exp(step * tl.full((1,), log2, tl.float32)))
    b_gradient = tl.load(p_gradients + i_at, mask=inside, other=0.0)
    b_first = tl.load(p_first + i_at, mask=inside, other=0.0)
    b_first += (b_gradient - b_first) * (1 - beta1).to(tl.float32)
    b_second = tl.load(p_second + i_at, mask=inside, other=0.0) * beta2.to(tl.float32)
    b_second += b_gradient * b_gradient * (1 - beta2).to(tl.float32)
    b_parameter = tl.load(p_parameters + i_at, mask=inside, other=0.0)
    b_parameter -= size * (b_first / (tl.sqrt_rn(b_second) / root + tl.full((1,), epsilon, tl.float32)))
    tl.store(p_first + i_at, b_first, mask=inside)
    tl.store(p_second + i_at, b_second, mask=inside)
    tl.store(p_parameters + i_at, b_parameter, mask=inside)
    if COPY:
        tl.store(p_copy + i_at, b_parameter.to(p_copy.dtype.element_ty), mask=inside)


@triton.jit
def sgd_kernel(
    p_parameters,
    p_gradients,
    p_first,
    p_copy,
    p_tiles,
    p_rates,
    momentum: tl.float64,
    ALIGNED: tl.constexpr,
    COPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    p_tile = p_tiles + tl.program_id(0) * 3
    start, end, member = tl.load(p_tile), tl.load(p_tile + 1), tl.load(p_tile + 2)
    if ALIGNED:
        start, end = tl.multiple_of(start, 16), tl.multiple_of(end, 16)
    i_at = start + tl.arange(0, BLOCK)
    inside = i_at < end
    b_first = tl.load(p_first + i_at, mask=inside, other=0.0) * tl.full((1,), momentum, tl.float32)
    b_first += tl.load(p_gradients + i_at, mask=inside, other=0.0)
    b_parameter = tl.load(p_parameters + i_at, mask=inside, other=0.0)
    b_parameter -= tl.load(p_rates + member).to(tl.float32) * b_first
    tl.store(p_first + i_at, b_first, mask=inside)
    tl.store(p_parameters + i_at, b_parameter, mask=inside)
    if COPY:
        tl.store(p_copy + i_at, b_parameter.to(p_copy.dtype.element_ty), mask=inside)


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


def adam(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    offsets: Tensor,
    steps: Tensor,
    learning_rates: Tensor,
) -> None:
    """One update in place of members whose parameters lie from offsets[m] to offsets[m + 1]; steps [M] precede it."""
    if parameters.numel():
        rates = learning_rates.to(torch.float64).contiguous()
        with torch.cuda.device_of(parameters):
            launch_adam(_op_tiles(offsets, len(parameters)), parameters, gradients, first, second, steps, rates)


def _op_tiles(offsets: Tensor, size: int) -> Tensor:
    """As `tiles`, made where the offsets are, so that nothing waits: at most so many tiles, of which some are empty."""
    counts = (offsets.diff() + (BLOCK - 1)) // BLOCK
    ends = counts.cumsum(0)
    i_tile = torch.arange(size // BLOCK + len(counts), device=offsets.device)
    member = torch.searchsorted(ends, i_tile, right=True).clamp_(max=len(counts) - 1)
    start = offsets[member] + (i_tile - (ends - counts)[member]) * BLOCK
    end = (start + BLOCK).minimum(offsets[member + 1])
    return torch.stack([start.minimum(end), end, member], 1)
