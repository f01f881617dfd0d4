"""Counter-based dropout in plain torch int64 arithmetic: the definition. Runs under vmap."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Philox4x32-10: four random 32-bit words for each counter.

    Args:
        counter: four int64 tensors of one shape (or broadcasting), each in [0, 2**32).
        key: two int64 tensors likewise.

    Returns:
        Four int64 tensors, each in [0, 2**32).

    Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 wraps around, so the low 64 bits of the unsigned product are exact; the mask undoes the sign.
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (second >> 32) & _MASK ^ c1 ^ k0, second & _MASK
        c2, c3 = (first >> 32) & _MASK ^ c3 ^ k1, first & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def random_bytes(key: Tensor, step: Tensor, layer: int, count: int) -> Tensor:
    """The random bytes of positions 0 to count - 1 of one member's layer at one step, int64 [count].

    Args:
        key, step: int64, 0-d; step counts modulo 2**32.
        layer: in [0, 2**32).
        count: number of positions.
    """
    blocks = torch.arange(-(-count // 16), dtype=torch.int64, device=key.device)
    zero = torch.zeros_like(blocks)
    counter = (blocks & _MASK, zero + (step & _MASK), zero + layer, zero)
    words = torch.stack(philox(counter, (key & _MASK, key >> 32 & _MASK)), 1)
    shifts = torch.arange(0, 32, 8, dtype=torch.int64, device=key.device)
    return (words[:, :, None] >> shifts & 0xFF).flatten()[:count]


def dropout(x: Tensor, key: Tensor, step: Tensor, layer: int, rate256: int, width: Tensor | None) -> Tensor:
    """One member's dropout; see `atras.kernels.dropout`, whose arguments these are."""
    features = x.flatten(1) if x.ndim == 2 else x.movedim(1, -1).flatten(1)
    rows, columns = features.shape
    position = torch.arange(rows * columns, dtype=torch.int64, device=x.device).view(rows, columns)
    real = None
    if width is not None:
        row, column = (torch.arange(count, dtype=torch.int64, device=x.device) for count in (rows, columns))
        real = column < width
        position = torch.where(real, row[:, None] * width + column, 0)
    drawn = random_bytes(key, step, layer, rows * columns).gather(0, position.flatten()).view(rows, columns)
    keep = drawn >= rate256 if real is None else (drawn >= rate256) & real
    if x.ndim == 4:
        keep = keep.view(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)
    return torch.where(keep, x * (256 / (256 - rate256)), 0)
