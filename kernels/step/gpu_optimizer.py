"""Adam, and SGD with momentum, as one Triton launch over the parameters of all members; with clipping as three."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .gpu_kernels_optimizer import adam_kernel, scales_kernel, sgd_kernel, squares_kernel

BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


class Recipe(NamedTuple):
    """What an update does beside the optimizer's own; by default nothing.

    Args:
        decays: weight decays float64 [M]; None for none.
        decoupled: whether they go past the moments.
        scales: float32 [M] that gradients are multiplied by first, as `launch_scales` makes them; None for no clipping.
        average: of the parameters, float32 [P], which the update moves; None for none.
        share: of the way from the average to the parameters that it goes.
    """

    decays: Tensor | None = None
    decoupled: bool = False
    scales: Tensor | None = None
    average: Tensor | None = None
    share: float = 0.0

    def tensors(self, instead: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Average, decays and scales; something else where there are none."""
        average, decays, scales = (instead if t is None else t for t in (self.average, self.decays, self.scales))
        return average, decays, scales

    @property
    def kind(self) -> tuple[str, bool, bool]:
        """What kernels are compiled for."""
        decay = "none" if self.decays is None else "decoupled" if self.decoupled else "coupled"
        return decay, self.scales is not None, self.average is not None


PLAIN = Recipe()


def tiles(segments: Iterable[tuple[int, int, int]]) -> Tensor:
    """Table int64 [T, 3] of first element, end and member for segments given likewise, cut into blocks."""
    table = [(at, min(at + BLOCK, end), member) for start, end, member in segments for at in range(start, end, BLOCK)]
    return torch.tensor(table, dtype=torch.int64, device="cpu").reshape(-1, 3)


def ends_of(table: Tensor, members: int) -> Tensor:
    """Where each member's rows of a table begin and end, int64 [M + 1], on the CPU; they must lie side by side."""
    counts = torch.bincount(table[:, 2].cpu(), minlength=members)
    return torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), counts.cumsum(0)])


def launch_scales(
    table: Tensor, ends: Tensor, gradients: Tensor, squares: Tensor, scales: Tensor, *, longest: float, aligned: bool
) -> None:
    """What to multiply each member's gradients by so that none is longer than a 2-norm, without a synchronization.

    Args:
        table: as `tiles` makes it, on the device.
        ends: as `ends_of` makes it of the table, on the device.
        gradients: float32 [P].
        squares: float32 [T], overwritten.
        scales: float32 [M], the result: at the most 1; NaN where a gradient is.
        longest: the norm.
        aligned: as of `launch_adam`.
    """
    squares_kernel[(len(table),)](gradients, table, squares, aligned, BLOCK, **OPTIONS)
    scales_kernel[(len(scales),)](squares, ends, scales, longest, BLOCK, **OPTIONS)


def launch_adam(
    table: Tensor,
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    steps: Tensor,
    rates: Tensor,
    *,
    counter: Tensor | None = None,
    recipe: Recipe = PLAIN,
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
        rates: learning rates float64 [M], or [S, M] with a counter.
        counter: int64 [1], the row of rates to take.
        recipe: what the update does besides.
        copy: [P] of another dtype, for the new parameters; None for no copy.
        aligned: whether every start and end in the table is a multiple of 16.
        betas, epsilon: of Adam.
    """
    tensors = (parameters, gradients, first, second, parameters if copy is None else copy)
    numbers = (*betas, *map(math.log, betas), epsilon)
    common, kind = _common(table, parameters, steps, rates, counter, recipe, copy, aligned)
    adam_kernel[(len(table),)](*tensors, *common, *numbers, *kind, **OPTIONS)


def launch_sgd(
    table: Tensor,
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    steps: Tensor,
    rates: Tensor,
    *,
    momentum: float,
    counter: Tensor | None = None,
    recipe: Recipe = PLAIN,
    copy: Tensor | None = None,
    aligned: bool = False,
) -> None:
    """As `launch_adam`, for stochastic gradient descent with momentum."""
    tensors = (parameters, gradients, first, parameters if copy is None else copy)
    common, kind = _common(table, parameters, steps, rates, counter, recipe, copy, aligned)
    sgd_kernel[(len(table),)](*tensors, *common, momentum, *kind, **OPTIONS)


def _common(
    table: Tensor,
    parameters: Tensor,
    steps: Tensor,
    rates: Tensor,
    counter: Tensor | None,
    recipe: Recipe,
    copy: Tensor | None,
    aligned: bool,
) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """What both kernels take after their own tensors, and what they are compiled for."""
    average, decays, scales = recipe.tensors(parameters)
    tensors = (average, table, steps, rates, steps if counter is None else counter, decays, scales)
    kind = (aligned, copy is not None, counter is not None, *recipe.kind, BLOCK)
    return (*tensors, rates.shape[-1], recipe.share), kind
