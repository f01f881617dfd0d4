"""The convolution block of a population on a GPU: channels innermost, all members in one launch.

Every function fills its outputs completely, launches and returns: it allocates nothing and waits for nothing, so that
a CUDA graph can hold it. Sums have a fixed order, so results repeat bit for bit.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .gpu_kernels_conv_backward import input_gradient_kernel, reduce_kernel, weight_gradient_kernel
from .gpu_kernels_conv_forward import forward_kernel

FEW = 4
"""Most channels of an input, such as an image, whose nine taps are gathered as one row of a product."""

REDUCED = 256
"""Weights that a program of the reduction sums up."""

PROGRAMS = 512
"""Approximate number of programs that share a weight gradient: a few for each multiprocessor of a large card."""

INPUT_PRECISION = {"bf16": "tf32", "tf32": "tf32", "tf32x3": "tf32x3", "fp32": "ieee"}
"""Triton's names of the precisions; operands of 16 bits have only one way to be multiplied."""


class Tile(NamedTuple):
    """The tile sizes of a kernel.

    Args:
        rows: 2x2 blocks of a program (of one turn of its loop, for the weight gradient).
        columns: largest block of what is summed up for: filters, or channels for the input gradient.
        depth: largest block of what is summed over; for the weight gradient, of the taps.
        unroll: turns of the loop over a window's rows that become one.
        warps: of a program.
        stages: of the loop's pipeline.
    """

    rows: int
    columns: int
    depth: int
    unroll: int
    warps: int
    stages: int = 1

    @property
    def options(self) -> dict[str, int | bool]:
        """As Triton calls them."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


FORWARD = {
    "bf16": Tile(64, 64, 32, 3, 4),
    "tf32": Tile(64, 32, 32, 1, 4),
    "tf32x3": Tile(64, 32, 16, 1, 8),
    "fp32": Tile(32, 32, 16, 1, 8),
}
INPUT_GRADIENT = {
    "bf16": Tile(64, 64, 32, 1, 4),
    "tf32": Tile(64, 32, 16, 1, 4),
    "tf32x3": Tile(64, 32, 16, 1, 8),
    "fp32": Tile(16, 32, 16, 1, 8),
}
WEIGHT_GRADIENT = {
    "bf16": Tile(64, 64, 128, 1, 8, 2),
    "tf32": Tile(32, 64, 64, 1, 8, 2),
    "tf32x3": Tile(16, 64, 64, 1, 8),
    "fp32": Tile(16, 32, 32, 1, 8),
}
"""The largest that no registers spill for, or a few bytes with some versions; not yet tuned on a card."""


class Layer(NamedTuple):
    """One convolution of a stem, the same for all members.

    Args:
        height, width, channels: of its input.
        filters: number of output channels.
        padding: 0 or 1 pixels of zeros on each side.
        pool: whether a 2x2 max-pool follows the activation; odd rows and columns are dropped, the first of equals wins.
        activation: relu, sigmoid, tanh or gelu.
        rate256: dropout rate after that, in 1/256.
        index: which dropout of the network this is.
    """

    height: int
    width: int
    channels: int
    filters: int
    padding: int
    pool: bool
    activation: str
    rate256: int
    index: int  # type: ignore[assignment]  # hides tuple.index

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return self._out(self.height)

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return self._out(self.width)

    @property
    def scale(self) -> float:
        """The factor by which dropout multiplies the values it keeps."""
        return 256 / (256 - self.rate256)

    def _out(self, side: int) -> int:
        side += 2 * self.padding - 2
        return side // 2 if self.pool else side


def forward(
    layer: Layer,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    y: Tensor,
    saved: Tensor,
    slopes: Tensor | None,
    *,
    keys: Tensor | None = None,
    step: Tensor | None = None,
    precision: str = "bf16",
) -> None:
    """Convolution, bias, activation, pool and dropout.

    Args:
        layer: the shapes.
        x: [M, B, H, W, C], or [B, H, W, C] for all members; bf16, fp16 or fp32.
        weight: [M, 9 * C, O] of x's dtype, taps row by row, each with all its channels.
        bias: fp32 [M, O].
        y: [M, B, H', W', O] of x's dtype.
        saved: uint8 like y: where the gradient goes.
        slopes: like y, the derivative that it takes on the way; None for relu, whose derivative is in `saved`.
        keys: int64 [M], dropout's; None for no dropout.
        step: int64 [1], dropout's; or [M], one for each member.
        precision: how fp32 operands are multiplied: tf32, tf32x3 (three products for nearly fp32) or fp32; bf16 for
            operands of 16 bits.
    """
    members, images = y.shape[:2]
    tile, masks = _tile(FORWARD[precision], y.device), (keys, step) if layer.rate256 else (None, None)
    depth = _power(9 * layer.channels, 64) if _few(layer) else _power(layer.channels, tile.depth)
    # A derivative beside the activation takes registers that wide tiles do not leave.
    columns = _power(layer.filters, tile.columns if slopes is None else max(16, tile.columns // 2))
    # Triton before 3.8 makes an unrolled loop within a loop a mere trap where accumulators have a memory of their own.
    unroll = 1 if depth < layer.channels and _capability(y.device) == 10 else tile.unroll
    own_step = step is not None and len(step) > 1
    grid = (triton.cdiv(images * _blocks(layer), tile.rows), members, triton.cdiv(layer.filters, columns))
    with torch.cuda.device_of(y):
        forward_kernel[grid](
            *(x, weight, bias, y, saved, slopes, *masks, images, layer.scale, layer.index, x.ndim == 4, own_step),
            *(*layer[:8], INPUT_PRECISION[precision], tile.rows, depth, columns, _few(layer), unroll),
            **tile.options,
        )


def input_gradient(
    layer: Layer,
    dy: Tensor,
    saved: Tensor,
    slopes: Tensor | None,
    weight: Tensor,
    dx: Tensor,
    *,
    precision: str = "bf16",
) -> None:
    """Gradient of x.

    Args:
        layer: the shapes.
        dy: gradient of y, like it.
        saved, slopes: from `forward`.
        weight: as there; its dtype is that of the products.
        dx: [M, B, H, W, C].
        precision: as there.
    """
    members, images = dy.shape[:2]
    tile = _tile(INPUT_GRADIENT[precision], dy.device)
    columns = 4 * FEW if _few(layer) else _power(layer.channels, tile.columns)
    depth = _power(layer.filters, tile.depth)
    blocks = (layer.height + 1 + layer.padding) // 2 * ((layer.width + 1 + layer.padding) // 2)
    grid = (
        triton.cdiv(images * blocks, tile.rows),
        members,
        1 if _few(layer) else triton.cdiv(layer.channels, columns),
    )
    with torch.cuda.device_of(dy):
        input_gradient_kernel[grid](
            *(dy, saved, slopes, weight, dx, images, layer.scale, *layer[:6], INPUT_PRECISION[precision]),
            *(tile.rows, columns, depth, _few(layer), tile.unroll),
            **tile.options,
        )


def weight_gradient(
    layer: Layer,
    dy: Tensor,
    saved: Tensor,
    slopes: Tensor | None,
    x: Tensor,
    dweight: Tensor,
    dbias: Tensor,
    scratch: Tensor,
    *,
    precision: str = "bf16",
) -> None:
    """Gradients of weight and bias.

    Args:
        layer: the shapes.
        dy: gradient of y, like it.
        saved, slopes: from `forward`.
        x: as there; its dtype is that of the products.
        dweight: fp32 [M, 9 * C, O].
        dbias: fp32 [M, O].
        scratch: fp32, at least `scratch_size` values, of any content.
        precision: as there.
    """
    members, images = dy.shape[:2]
    tile, few = _tile(WEIGHT_GRADIENT[precision], dy.device), _few(layer)
    splits = _splits(layer, members, images)
    rows = tile.rows if layer.pool else max(16, tile.rows // 2)  # without a pool there are four gradients to a block
    depth = _power(9 * layer.channels, 64) if few else _power(4 * layer.channels, tile.depth)
    columns = _power(layer.filters, tile.columns)
    tiles = triton.cdiv(layer.filters, columns) * (1 if few else 3 * triton.cdiv(4 * layer.channels, depth))
    # Of one channel, two stages leave three registers too few on capability 9 (Triton 3.8).
    options = tile.options | ({"num_stages": 3} if layer.channels == 1 and precision == "bf16" else {})
    with torch.cuda.device_of(dy):
        weight_gradient_kernel[(splits, members, tiles)](
            *(dy, saved, slopes, x, scratch, images, layer.scale, x.ndim == 4, *layer[:6]),
            *(INPUT_PRECISION[precision], rows, depth, columns, few),
            **options,
        )
        grid = (triton.cdiv((9 * layer.channels + 1) * layer.filters, REDUCED), members)
        sizes = (layer.channels, layer.filters, few, REDUCED)
        reduce_kernel[grid](scratch, dweight, dbias, splits, *sizes, num_warps=4, enable_fp_fusion=True)


def scratch_size(layer: Layer, members: int, batch: int) -> int:
    """Number of float32 values that `weight_gradient` needs for so many members and images."""
    weights = 9 * layer.channels if _few(layer) else 24 * layer.channels
    return _splits(layer, members, batch) * members * (weights + 1) * layer.filters


def _splits(layer: Layer, members: int, images: int) -> int:
    """Number of programs that share the images of a member's tile of weights: whatever the precision, as scratch is."""
    tile = WEIGHT_GRADIENT["bf16"]
    tiles = triton.cdiv(layer.filters, tile.columns)
    if not _few(layer):
        tiles *= 3 * triton.cdiv(4 * layer.channels, tile.depth)
    return max(1, min(triton.cdiv(PROGRAMS, members * tiles), triton.cdiv(images * _blocks(layer), tile.rows)))


def _tile(tile: Tile, device: torch.device) -> Tile:
    """The same or, where both operands of a product pass through registers, a smaller one."""
    if _capability(device) in (9, 10):  # where products read shared memory themselves; 12 multiplies as 8 does
        return tile
    depth = max(16, tile.depth // 2)
    return tile._replace(rows=min(tile.rows, 32), columns=min(tile.columns, 16), depth=depth, unroll=1)


@functools.cache
def _capability(device: torch.device) -> int:
    """Major compute capability; that of the largest tiles where no card is (in the interpreter)."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9


def _blocks(layer: Layer) -> int:
    """2x2 blocks of an image's positions; a pool drops those that are not whole."""
    return layer.out_height * layer.out_width if layer.pool else -(-layer.out_height // 2) * -(-layer.out_width // 2)


def _few(layer: Layer) -> bool:
    return layer.channels <= FEW


def _power(count: int, most: int) -> int:
    """The size of a block for so many: a power of two, and at least 16, as tensor cores ask."""
    return min(max(16, triton.next_power_of_2(count)), most)
