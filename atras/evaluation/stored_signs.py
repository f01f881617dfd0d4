"""Signs of gradients in a file, of which those of some images at a time are in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atras.storage import scratch_array


class StoredSigns:
    """Signs [M, N, C, H, W] that are indexed by their images, `signs[:, index]`, as a tensor is.

    Args:
        members: int8 [N, C, H, W] each.
        device: where signs are handed out.
    """

    def __init__(self, members: Sequence[np.ndarray], device: torch.device) -> None:
        self.members, self.device = list(members), device

    @classmethod
    def empty(cls, shape: Sequence[int], device: torch.device) -> StoredSigns:
        """Room for signs of a shape [M, N, C, H, W], in a file without a name."""
        return cls(list(scratch_array(shape, np.int8)), device)

    @property
    def shape(self) -> torch.Size:
        """[M, N, C, H, W]."""
        return torch.Size((len(self.members), *self.members[0].shape))

    def of(self, rows: Sequence[int]) -> StoredSigns:
        """Those of some members, in this order; nothing is copied."""
        return StoredSigns([self.members[row] for row in rows], self.device)

    def on_host(self, index: slice | np.ndarray) -> np.ndarray:
        """int8 [M, B, C, H, W], in memory of its own: those of a slice's images, or of numbers'."""
        return np.stack([own[index] for own in self.members])

    def __getitem__(self, key: tuple[slice, slice]) -> Tensor:
        return torch.from_numpy(self.on_host(key[1])).to(self.device)

    def __setitem__(self, key: tuple[slice, slice], signs: Tensor) -> None:
        for own, new in zip(self.members, signs.cpu().numpy(), strict=True):
            own[key[1]] = new


AllSigns = Tensor | StoredSigns
"""Signs of all images of a split, [M, N, C, H, W]."""


def signs_of_members(signs: AllSigns, rows: Sequence[int]) -> AllSigns:
    """The signs of some members."""
    return signs.of(rows) if isinstance(signs, StoredSigns) else signs[list(rows)]


def joined(parts: Sequence[AllSigns]) -> AllSigns:
    """The signs of the members of all parts."""
    first = parts[0]
    if isinstance(first, StoredSigns):
        members = [own for part in parts if isinstance(part, StoredSigns) for own in part.members]
        return StoredSigns(members, first.device)
    return torch.cat([part for part in parts if isinstance(part, Tensor)])
