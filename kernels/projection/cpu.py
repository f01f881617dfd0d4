"""Op projection on the CPU: the C++ extension over all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends

CODES = {"linf": 0, "l2": 1, "l1": 2}


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
    points, clean, normals, values = (each.contiguous() for each in (points, clean, normals, values))
    reached = torch.empty(points.shape, dtype=points.dtype, device=points.device)
    pointers = [each.data_ptr() for each in (points, clean, normals, values, reached)]
    sizes = (points.dtype == torch.float64, len(points), points.shape[1:].numel())
    threads = torch.get_num_threads()
    backends.cpu_extension().boundary_step(*pointers, *sizes, CODES[norm], alpha, eta, low, high, threads)
    return reached
