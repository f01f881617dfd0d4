"""Op projection: what it means, its checks and the choice of backend."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import backends
from . import cpu, reference

BACKENDS = ("cpu", "triton")
NORMS = ("linf", "l2", "l1")
DTYPES = (torch.float32, torch.float64)


def boundary_step(
    points: Tensor,
    clean: Tensor,
    normals: Tensor,
    values: Tensor,
    *,
    norm: str,
    alpha: float,
    eta: float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """FAB's step: beyond a linearised boundary, from where the points are and a little from their images.

    Both are brought onto the hyperplane values + normals * (x - points) = 0 by the smallest change in the norm that the
    bounds allow, or as near as they allow; eta times those changes lead to two places, of which the mean is taken, that
    of the image with weight min(size / (size + other size), alpha). The result carries no gradient.

    Args:
        points: [P, C, H, W] within the bounds, float32 or float64.
        clean: [P, C, H, W], their images, within the bounds.
        normals: [P, C, H, W], the gradient of a function at the points; NaN counts as 0.
        values: [P], the function there; the boundary is where it is 0.
        norm: `linf`, `l2` or `l1`.
        alpha: highest weight, in [0, 1].
        eta: at least 0.
        bounds: lowest and highest pixel allowed.

    Returns:
        [P, C, H, W]. Where a normal is zero a point stays where it is, but for the weight of its image.

    Raises:
        ValueError: if a shape, dtype, device or number is out of range.

    Source: Croce, Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack", algorithm
    1; exact projections by its appendix A.
    """
    _check_tensors(points, clean, normals, values)
    _check_numbers(norm, alpha, eta, bounds)
    backend = backends.choose("boundary_step", BACKENDS, points.device, points.dtype)
    low, high = bounds
    numbers = (float(alpha), float(eta), float(low), float(high))
    if backend == "cpu":
        return cpu.boundary_step(points, clean, normals, values, norm, *numbers)
    if backend == "triton":
        from . import gpu_triton

        return gpu_triton.boundary_step(points, clean, normals, values, norm, *numbers)
    with torch.no_grad():
        return reference.boundary_step(points, clean, normals, values, norm, *numbers)


def _check_tensors(points: Tensor, clean: Tensor, normals: Tensor, values: Tensor) -> None:
    named = {"points": points, "clean": clean, "normals": normals, "values": values}
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"boundary_step: expected {name} as a torch tensor, got {type(tensor).__name__}")
    if points.ndim != 4:
        raise ValueError(f"boundary_step: expected points [P, C, H, W], got {tuple(points.shape)}; reshape first")
    if points.dtype not in DTYPES:
        name = str(points.dtype).removeprefix("torch.")
        raise ValueError(f"boundary_step: expected points of dtype float32 or float64, got {name}; convert them")
    for name, tensor in named.items():
        shape = points.shape[:1] if name == "values" else points.shape
        if (tensor.shape, tensor.dtype, tensor.device) != (shape, points.dtype, points.device):
            expected = f"{tuple(shape)}, {points.dtype}, {points.device}"
            got = f"{tuple(tensor.shape)}, {tensor.dtype}, {tensor.device}"
            raise ValueError(f"boundary_step: expected {name} {expected}, got {got}; make them fit the points")


def _check_numbers(norm: str, alpha: float, eta: float, bounds: tuple[float, float]) -> None:
    if norm not in NORMS:
        raise ValueError(f"boundary_step: norm (={norm!r}): expected one of {', '.join(NORMS)}")
    for name, value, most in (("alpha", alpha, 1.0), ("eta", eta, math.inf)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise ValueError(f"boundary_step: {name} (={value!r}): expected a number from 0 to {most}")
    if len(bounds) != 2 or not bounds[0] <= bounds[1]:
        raise ValueError(f"boundary_step: bounds (={bounds!r}): expected two numbers, the lower one first")
