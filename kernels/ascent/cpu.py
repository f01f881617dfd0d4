"""Op ascent on the CPU: the C++ extension over all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends


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
    given = [each if each is None else each.contiguous() for each in (points, before, gradients, clean, sizes)]
    reached = torch.empty(points.shape, dtype=points.dtype, device=points.device)
    pointers = [0 if each is None else each.data_ptr() for each in (*given, reached)]
    shape = (points.dtype == torch.float64, len(points), points.shape[1:].numel())
    numbers = (epsilon, weight, 1 - weight, low, high, torch.get_num_threads())
    backends.cpu_extension().ascent_step(*pointers, *shape, *numbers)
    return reached


def keep_rows(kept: Tensor, values: Tensor, chosen: Tensor) -> None:
    """See `dispatch.keep_rows`."""
    values, chosen = values.contiguous(), chosen.contiguous()
    shape = (len(kept), kept.shape[1:].numel() * kept.element_size())
    pointers = (kept.data_ptr(), values.data_ptr(), chosen.data_ptr())
    backends.cpu_extension().keep_rows(*pointers, *shape, torch.get_num_threads())
