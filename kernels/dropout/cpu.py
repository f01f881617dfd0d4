"""Op dropout on the CPU: the C++ extension over tensors of all members."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends
from .positions import dense, positions


def dropout(x: Tensor, key: Tensor, step: Tensor, width: Tensor | None, layer: int, rate256: int) -> Tensor:
    """See `dispatch._Dropout`: x [M, B, F] or [M, B, C, H, W], key, step and width [M]."""
    x, planar = dense(x)
    y = torch.empty_like(x)
    key, step, width = key.contiguous(), step.contiguous(), None if width is None else width.contiguous()
    pointers = (x.data_ptr(), y.data_ptr(), key.data_ptr(), step.data_ptr(), 0 if width is None else width.data_ptr())
    kind = (x.dtype == torch.float64, planar)
    sizes = (len(x), *positions(x))
    backends.cpu_extension().dropout(*pointers, *kind, *sizes, layer, rate256, torch.get_num_threads())
    return y
