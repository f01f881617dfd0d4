"""Op ascent: what it means, its checks and the choice of backend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends
from . import cpu, reference

BACKENDS = ("cpu", "triton")
DTYPES = (torch.float32, torch.float64)


def ascent_step(
    points: Tensor,
    before: Tensor | None,
    gradients: Tensor,
    clean: Tensor,
    sizes: Tensor,
    *,
    epsilon: float,
    weight: float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """A step along the signs of the gradients in linf balls, with momentum, in one pass.

    reached = points + sizes * sign(gradients), brought into the ball of epsilon around the clean images and into the
    bounds; then points + weight * (reached - points) + (1 - weight) * (points - before), brought there likewise. A NaN
    gradient moves nothing. The same bits on every backend. The result carries no gradient.

    Args:
        points: [P, C, H, W], float32 or float64.
        before: [P, C, H, W], the points before the last step; None for a step without momentum.
        gradients, clean: [P, C, H, W]; the clean images finite.
        sizes: [P], of the steps.
        epsilon: radius of the balls, at least 0.
        weight: of the step itself, in [0, 1].
        bounds: lowest and highest pixel allowed.

    Returns:
        [P, C, H, W].

    Raises:
        ValueError: if a shape, dtype, device or number is out of range.

    Source: Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", algorithm 1.
    """
    named = {"before": points if before is None else before, "gradients": gradients, "clean": clean, "sizes": sizes}
    _check_tensors("ascent_step", points, named)
    for name, value, most in (("epsilon", epsilon, math.inf), ("weight", weight, 1.0)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise ValueError(f"ascent_step: {name} (={value!r}): expected a number from 0 to {most}")
    if len(bounds) != 2 or not bounds[0] <= bounds[1]:
        raise ValueError(f"ascent_step: bounds (={bounds!r}): expected two numbers, the lower one first")
    low, high = bounds
    numbers = (float(epsilon), float(weight), float(low), float(high))
    backend = backends.choose("ascent_step", BACKENDS, points.device, points.dtype)
    if backend == "cpu":
        return cpu.ascent_step(points, before, gradients, clean, sizes, *numbers)
    if backend == "triton":
        from . import gpu_triton

        return gpu_triton.ascent_step(points, before, gradients, clean, sizes, *numbers)
    with torch.no_grad():
        return reference.ascent_step(points, before, gradients, clean, sizes, *numbers)


def keep_rows(kept: Sequence[Tensor], values: Sequence[Tensor], chosen: Tensor) -> None:
    """Copy the chosen rows of some tensors into what is kept, in place; the others are neither read nor written.

    Args:
        kept: of [P, C, H, W], contiguous, float32 or float64.
        values: as many, of the same shapes.
        chosen: bool [P].

    Raises:
        ValueError: if a shape, dtype, device or layout does not fit.
    """
    if len(kept) != len(values):
        raise ValueError(f"keep_rows: expected as many values as are kept, got {len(values)} and {len(kept)}")
    for own, other in zip(kept, values, strict=True):
        _check_tensors("keep_rows", own, {"values": other})
        if not own.is_contiguous():
            raise ValueError("keep_rows: expected what is kept contiguous; call .contiguous() first")
        if chosen.dtype != torch.bool or chosen.shape != own.shape[:1] or chosen.device != own.device:
            raise ValueError(f"keep_rows: expected chosen bool [{len(own)}], got {chosen.dtype} {tuple(chosen.shape)}")
    backend = backends.choose("keep_rows", BACKENDS, chosen.device, kept[0].dtype if kept else torch.float32)
    if backend == "cpu":
        copy = cpu.keep_rows
    elif backend == "triton":
        from . import gpu_triton

        copy = gpu_triton.keep_rows
    else:
        copy = reference.keep_rows
    for own, other in zip(kept, values, strict=True):
        copy(own, other, chosen)


def _check_tensors(op: str, first: Tensor, others: dict[str, Tensor]) -> None:
    for name, tensor in {"the first argument": first, **others}.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{op}: expected {name} as a torch tensor, got {type(tensor).__name__}")
    if first.ndim != 4:
        raise ValueError(f"{op}: expected images [P, C, H, W], got {tuple(first.shape)}; reshape before the call")
    if first.dtype not in DTYPES:
        name = str(first.dtype).removeprefix("torch.")
        raise ValueError(f"{op}: expected images of dtype float32 or float64, got {name}; convert them")
    for name, tensor in others.items():
        shape = first.shape[:1] if name == "sizes" else first.shape
        if (tensor.shape, tensor.dtype, tensor.device) != (shape, first.dtype, first.device):
            expected = f"{tuple(shape)}, {first.dtype}, {first.device}"
            got = f"{tuple(tensor.shape)}, {tensor.dtype}, {tensor.device}"
            raise ValueError(f"{op}: expected {name} {expected}, got {got}; make them fit the others")
