"""The axis of images that has their channels."""

from __future__ import annotations

import numpy as np

from atras.errors import InputError
from atras.experiment import Channels

FEW = 4
"""Most channels that are told from a side without being told which axis has them: grey with alpha, RGB, RGBA."""


def channels_last(where: str, images: np.ndarray, channels: Channels) -> np.ndarray:
    """Images with their channels, if they have some, as the last axis; no pixel is copied.

    Args:
        where: the array, for messages.
        images: [N, H, W], [N, H, W, C] or [N, C, H, W], of any dtype; those of other shapes stay as they are.
        channels: where the channels are; `auto` for the one of both axes that has at most `FEW`.

    Returns:
        [N, H, W] or [N, H, W, C].

    Raises:
        InputError: if `channels` is `auto` and both axes could have them, or neither.
    """
    if images.ndim != 4 or images.size == 0:
        return images
    _, first, middle, last = images.shape
    if channels == "auto":
        if (first <= FEW) == (last <= FEW):
            raise InputError(
                f"{where}: expected to see where images have their channels, got {images.shape}, which may be {first} "
                f"channels of {middle} x {last} or {last} channels of {first} x {middle}; add --channels first or "
                "--channels last"
            )
        channels = "first" if first <= FEW else "last"
    return np.moveaxis(images, 1, -1) if channels == "first" else images
