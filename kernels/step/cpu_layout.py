"""Memory that op step takes on a CPU for convolutions of networks' own, as `chain_scratch.h` lays it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .reference import ConvLayer

GROUPS = 8
"""Parts of a batch whose gradients of the weights are summed apart."""

SHARED = 2**16
"""Values of a block of patches, where a band of results has no more."""

TILES, DEEP, DEPTH, PANEL = 96, 192, 256, 64
"""Tiles of a block, and of a block of gradients; input channels and outputs whose gradients are summed at once."""


class Placed(NamedTuple):
    """A convolution and the images that it takes: channels, and sides with their border.

    Args:
        way: how its products are taken: by `patches`, `tiles`, or a single `point`.
    """

    layer: ConvLayer
    channels: int
    height: int
    width: int
    way: str

    @property
    def inputs(self) -> int:
        return self.channels * self.height * self.width

    @property
    def padded(self) -> int:
        return _up(self.layer.filters, 16)

    @property
    def results(self) -> tuple[int, int]:
        return self.layer._replace(padding=0).output_sides(self.height, self.width)

    @property
    def kept(self) -> int:
        height, width = self.results
        return height * width * self.padded

    @property
    def positions(self) -> int:
        height, width = self.results
        return height * width * max(self.layer.pool, 1) ** 2

    @property
    def patch(self) -> int:
        return _row_stride(self.layer.kernel**2 * self.channels)

    @property
    def components(self) -> int:
        return 16 if self.way == "tiles" else 1

    @property
    def tiles(self) -> int:
        window = max(self.layer.pool, 1)
        height, width = (-(-side * window // 2) for side in self.results)
        return height * width

    @property
    def turned(self) -> int:
        """Its weights as the products of either pass take them."""
        if self.way == "patches":
            return self.padded * self.patch
        inputs, outputs = _up(self.channels, 16), self.padded
        return self.components * max(
            _up(self.channels, 2) * _up(outputs, PANEL), self.layer.filters * _up(inputs, PANEL)
        )


def placed(image_shape: tuple[int, int, int], convolutions: Sequence[ConvLayer]) -> Iterator[Placed]:
    """Each convolution of a network with what it takes, and how its products are taken."""
    channels, height, width = image_shape
    for number, layer in enumerate(convolutions):
        border = 2 * layer.padding
        own = Placed(layer, channels, height + border, width + border, "patches")
        if (
            number > 0
            and height == width == 1
            and own.positions == 1
            and layer.pool <= 1
            and own.height < _second(layer)
        ):
            own = own._replace(way="point")
        elif number > 0 and _tiled(own):
            own = own._replace(way="tiles")
        yield own
        channels, (height, width) = layer.filters, own.results


def scratch_values(
    image_shape: tuple[int, int, int], convolutions: Sequence[ConvLayer], activation: str, batch: int, precision: str
) -> int:
    """Numbers of 4 bytes that are kept of a member's step for its convolutions and the features behind them.

    Args:
        image_shape: (C, H, W).
        convolutions: of the member.
        activation: whose slopes are kept, unless it is `relu`.
        batch: most images of a step.
        precision: of training, `fp32` or `bf16`.
    """
    chain = list(placed(image_shape, convolutions))
    batch = _up(batch, 16)
    values, turned, sums, kept_inputs, gradients, dx = 0.0, 0, 0, 0, 0, [0, 0]
    for number, own in enumerate(chain):
        winners = 0.5 * (own.layer.pool > 1)  # of two bytes
        values += batch * (own.inputs + own.kept * ((activation != "relu") + winners))
        turned = max(turned, own.turned)
        if number > 0:
            dx[number % 2] = max(dx[number % 2], batch * own.inputs)
        if own.way == "patches":
            sums = max(sums, own.layer.kernel**2 * own.channels * own.padded)
            continue
        tiles = batch * own.tiles // (2 if precision == "bf16" else 1)
        kept_inputs = max(kept_inputs, own.components * tiles * _row_stride(own.channels))
        gradients = max(gradients, batch * own.kept)
    height, width = chain[-1].results
    features = 3 * batch * height * width * chain[-1].layer.filters  # themselves, their gradients, and both turned
    return int(values) + turned + GROUPS * sums + kept_inputs + gradients + sum(dx) + features


def workspace_values(image_shape: tuple[int, int, int], convolutions: Sequence[ConvLayer], precision: str) -> int:
    """Numbers of 4 bytes that a thread works in, of blocks of a member's convolutions; arguments as above."""
    left = products = patches = gradients = 0
    for number, own in enumerate(placed(image_shape, convolutions)):
        if own.way == "patches":
            band = max(1, 32768 * own.results[0] // max(own.positions * own.patch, 1)) * own.positions // own.results[0]
            images = min(16, max(1, SHARED // (own.positions * own.patch)))
            patches = max(patches, band * own.patch)
            products = max(products, band * own.padded, images * own.positions * own.patch)
            gradients = max(gradients, images * own.positions * own.padded)
            if number > 0 and precision == "bf16":
                left = max(left, band * own.patch // 2, images * own.positions * own.padded // 2)
            continue
        rows = max(1, (TILES + own.tiles // 2) // own.tiles) * own.tiles
        left = max(left, own.components * max(TILES * _up(own.channels, 32), rows * own.padded, DEEP * PANEL))
        products = max(products, own.components * PANEL * max(rows, TILES, DEPTH))
    return left + products + patches + gradients


def _tiled(own: Placed) -> bool:
    """Whether 2x2 results are computed at once."""
    layer, window = own.layer, max(own.layer.pool, 1)
    wide = min(own.channels, layer.filters) >= 16 and min(own.results) * window > 1
    return wide and (layer.kernel, layer.stride) == (3, 1) and window <= 2


def _second(layer: ConvLayer) -> int:
    """Rows that a second window needs."""
    return layer.kernel + layer.stride


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _row_stride(width: int) -> int:
    padded = _up(width, 16)
    return padded + 16 if padded % 128 == 0 else padded
