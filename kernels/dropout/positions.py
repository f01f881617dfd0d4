"""The order of op dropout's positions in memory, shared by its C++ and its Triton launcher."""

from __future__ import annotations

from torch import Tensor


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """x, copied only if its memory has gaps or another order, and whether its channels are planes (not innermost).

    Args:
        x: [M, B, F] or [M, B, C, H, W].
    """
    if x.ndim == 5 and x.movedim(2, -1).is_contiguous():
        return x, False
    return x.contiguous(), x.ndim == 5


def positions(x: Tensor) -> tuple[int, int, int]:
    """Rows, spots in a row and channels of a spot, in the order in which positions count.

    Args:
        x: [M, B, F] or [M, B, C, H, W].
    """
    return (x.shape[1], 1, x.shape[2]) if x.ndim == 3 else (x.shape[1], x.shape[3] * x.shape[4], x.shape[2])
