"""Images that stay in their file, of which some at a time are in memory."""

from __future__ import annotations

import numpy as np
import torch

from atras.storage import in_file, scratch_array

from .source_arrays import pieces


class StoredImages:
    """Images [N, C, H, W] that are indexed like a tensor; what is asked for comes as a copy on the device.

    Args:
        source: [K, H, W] or [K, H, W, C], uint8 or floats in [0, 1], mapped from a file or not.
        numbers: int64 [N], which of them; None for all.
        device: where images are handed out.
    """

    def __init__(
        self, source: np.ndarray, numbers: np.ndarray | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self._source, self._numbers = np.asarray(source), numbers
        self.device = torch.device(device)
        self.dtype = torch.uint8 if source.dtype == np.uint8 else torch.float32
        height, width, *channels = source.shape[1:]
        count = len(source) if numbers is None else len(numbers)
        self.shape = torch.Size((count, *(channels or [1]), height, width))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | torch.Tensor) -> torch.Tensor:
        """uint8 or float32, [C, H, W] of a number, else [..., C, H, W]: a slice's images, or those of numbers int64."""
        if isinstance(index, torch.Tensor):
            found = self.on_host(index.cpu().numpy().reshape(-1))
            return torch.from_numpy(found.reshape(*index.shape, *self.shape[1:])).to(self.device)
        if isinstance(index, slice):
            return torch.from_numpy(self.on_host(index)).to(self.device)
        return torch.from_numpy(self.on_host(np.array([index]))[0]).to(self.device)

    def on_host(self, index: slice | np.ndarray) -> np.ndarray:
        """[B, C, H, W], uint8 or float32, contiguous, in memory of its own: the images of a slice, or of numbers."""
        images = self._source[index if self._numbers is None else self._numbers[index]]
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        return np.array(images, np.uint8 if self.dtype == torch.uint8 else np.float32, order="C")


def stored(source: np.ndarray, numbers: slice | np.ndarray, device: str | torch.device) -> StoredImages:
    """Some images of an array where they are in a file; copied into one, piece by piece, where they are in memory.

    Args:
        source, device: as of `StoredImages`.
        numbers: which of them.
    """
    if isinstance(numbers, slice):
        source, numbers = source[numbers], np.arange(0)
    if in_file(source):
        return StoredImages(source, numbers if len(numbers) else None, device)
    kept = scratch_array((len(numbers) or len(source), *source.shape[1:]), source.dtype)
    for piece in pieces(kept):
        kept[piece] = source[numbers[piece]] if len(numbers) else source[piece]
    return StoredImages(kept, None, device)
