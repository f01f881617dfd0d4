"""Memory that op step takes on a CPU for convolutions of networks' own, as `chain_scratch.h` lays it out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .reference import ConvLayer

GROUPS = 8
"""Parts of a batch whose gradients of the weights are summed apart."""

SHARED = 2**18
"""Values of a block of patches and of their gradients, where an image has no more."""


def scratch_values(
    image_shape: tuple[int, int, int], convolutions: Sequence[ConvLayer], activation: str, batch: int
) -> int:
    """Numbers of 4 bytes that a thread keeps for a member's convolutions and the features behind them.

    Args:
        image_shape: (C, H, W).
        convolutions: of the member.
        activation: whose slopes are kept, unless it is `relu`.
        batch: most images of a step.
    """
    channels, height, width = image_shape
    kept, weights, inputs, patches = 0.0, 0, 0, SHARED
    for layer in convolutions:
        taken = channels * (height + 2 * layer.padding) * (width + 2 * layer.padding)
        height, width = layer.output_sides(height, width)
        positions, patch = height * width * max(layer.pool, 1) ** 2, layer.kernel**2 * channels
        results = height * width * (-(-layer.filters // 16) * 16)
        kept += taken + results * ((activation != "relu") + 0.5 * (layer.pool > 1))  # winners of pools are two bytes
        weights += patch * layer.filters
        inputs, patches = max(inputs, taken), max(patches, positions * patch)
        channels = layer.filters
    features = channels * height * width
    images = 2 * math.ceil(batch / GROUPS) * inputs  # gradients of a convolution's input
    return int(batch * (kept + 3 * features)) + (GROUPS + 1) * weights + images + patches
