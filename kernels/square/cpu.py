"""Op square on the CPU: the C++ extension over the pairs' images."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends


def propose_corners(
    tried: Tensor, clean: Tensor, drawn: Tensor, side: int, epsilon: float, low: float, high: float
) -> None:
    """See `dispatch.propose_corners`."""
    clean, drawn = clean.contiguous(), drawn.contiguous()
    pointers = (tried.data_ptr(), clean.data_ptr(), drawn.data_ptr())
    numbers = (side, epsilon, low, high, torch.get_num_threads())
    backends.cpu_extension().square_corners(*pointers, tried.dtype == torch.float64, *tried.shape, *numbers)


def propose_bumps(
    tried: Tensor,
    best: Tensor,
    clean: Tensor,
    spent: Tensor,
    drawn: Tensor,
    bumps: Tensor,
    epsilon: float,
    low: float,
    high: float,
) -> Tensor:
    """See `dispatch.propose_bumps`."""
    best, clean, spent, drawn, bumps = (each.contiguous() for each in (best, clean, spent, drawn, bumps))
    after = torch.empty_like(spent)
    pointers = [each.data_ptr() for each in (tried, best, clean, spent, after, drawn, bumps)]
    numbers = (bumps.shape[1], epsilon, low, high, torch.get_num_threads())
    backends.cpu_extension().square_bumps(*pointers, tried.dtype == torch.float64, *tried.shape, *numbers)
    return after


def keep_better(
    best: Tensor,
    tried: Tensor,
    values: Tensor,
    logits: Tensor,
    labels: Tensor,
    drawn: Tensor,
    side: int,
    spent: tuple[Tensor, Tensor] | None,
) -> None:
    """See `dispatch.keep_better`."""
    logits, labels, drawn = logits.contiguous(), labels.contiguous(), drawn.contiguous()
    after = None if spent is None else spent[1].contiguous()
    norms = (0, 0) if spent is None or after is None else (spent[0].data_ptr(), after.data_ptr())
    pointers = [each.data_ptr() for each in (best, tried, values, logits, labels, drawn)]
    sizes = (*best.shape, logits.shape[1], drawn.shape[1], side, torch.get_num_threads())
    backends.cpu_extension().square_keep(*pointers, *norms, best.dtype == torch.float64, *sizes)
