"""Lists of (member, image) pairs: some images of each member, one member after the other, without gaps."""

from __future__ import annotations

import torch
from torch import Tensor


def members_of_pairs(counts: Tensor, device: torch.device | None = None) -> Tensor:
    """int64 [P], the member of each pair, from counts int64 [M], how many each member has; P is their sum."""
    members = torch.arange(len(counts), dtype=torch.int64, device=counts.device)
    return members.repeat_interleave(counts).to(counts.device if device is None else device)


def pad_pairs(values: Tensor, counts: Tensor) -> Tensor:
    """Values [P, ...] of pairs as [M, K, ...], K the highest count; what is added at a member's end is zero."""
    padded = values.new_zeros(len(counts), int(counts.max()) if len(counts) else 0, *values.shape[1:])
    padded[_places(counts, values.device)] = values
    return padded


def unpad_pairs(padded: Tensor, counts: Tensor) -> Tensor:
    """Values [P, ...] of the pairs in [M, K, ...], in the order of `pad_pairs`."""
    return padded[_places(counts, padded.device)]


def _places(counts: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The member of each pair, and its number among that member's."""
    members = members_of_pairs(counts)
    first = counts.cumsum(0) - counts
    numbers = torch.arange(len(members), dtype=torch.int64, device=counts.device) - first[members]
    return members.to(device), numbers.to(device)
