"""Training images changed at random: cut out of a padded image, and mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from atras.networks import image_bits

PIECE = 512
"""Images that are changed at a time: what lies between is a few times as large as they are."""


def padding(side: int) -> int:
    """Rows or columns of zeros on each side of an image, of which `crop` cuts the image's size: 4 of 32."""
    return max(1, (side + 4) // 8)


class Moves:
    """What augmentation does to some images: where each of its pixels comes from.

    Args:
        augment: words among `crop` and `flip`.
        bits: int64 [K], random bits of each image.
        height, width: of the images.
    """

    def __init__(self, augment: Sequence[str], bits: Tensor, height: int, width: int) -> None:
        self.pads = (padding(height), padding(width)) if "crop" in augment else (0, 0)
        self._down, self._right = (
            ((bits >> shift) & 0xFFFFFF) * (2 * pad + 1) >> 24 for shift, pad in zip((0, 24), self.pads, strict=True)
        )
        self._flipped = (bits >> 48) & ("flip" in augment) == 1

    def applied(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """Images [..., K, C, H, W] (or signs of their pixels) as they are moved; what comes from outside is 0."""
        result = torch.empty_like(images) if out is None else out
        for start in range(0, images.shape[-4], PIECE):
            piece = slice(start, start + PIECE)
            result[..., piece, :, :, :] = self._piece(images[..., piece, :, :, :], piece)
        return result

    def _piece(self, images: Tensor, piece: slice) -> Tensor:
        *_, height, width = images.shape
        high, wide = self.pads
        padded = F.pad(images, (wide, wide, high, high))
        rows = torch.arange(height, device=images.device) + self._down[piece, None]
        columns = torch.arange(width, device=images.device).expand(len(rows), width)
        columns = torch.where(self._flipped[piece, None], width - 1 - columns, columns) + self._right[piece, None]
        places = (rows[:, :, None] * (width + 2 * wide) + columns[:, None, :]).flatten(1)  # [K, H * W]
        places = places[:, None].expand(*images.shape[:-2], height * width)
        return padded.flatten(-2).gather(-1, places).view(images.shape)


def moves_of(augment: str, seed: int, phase: str, epoch: int, images: Tensor, height: int, width: int) -> Moves:
    """The moves of some images of an epoch.

    Args:
        augment: such as `crop,flip`.
        seed, phase, epoch: of the draw.
        images: int64 [K], numbers of the images; an adversarial copy has one of its own.
        height, width: of the images.
    """
    return Moves(augment.split(","), image_bits(seed, phase, epoch, "augment", images), height, width)
