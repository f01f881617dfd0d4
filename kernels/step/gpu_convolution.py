"""Convolution blocks of a population on a GPU: channels innermost, all members that have a layer in one launch.

Numbers lie in flat buffers, and a table says where each member's are. Every function fills its outputs completely,
launches and returns: it allocates nothing and waits for nothing, so that a CUDA graph can hold it. Sums have a fixed
order, so results repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .gpu_convolution_tiles import WIDE, Launch
from .gpu_kernels_conv_backward import reduce_kernel
from .gpu_kernels_conv_first_forward import first_forward_kernel
from .gpu_kernels_conv_first_gradients import first_input_gradient_kernel, first_weight_gradient_kernel
from .gpu_kernels_conv_forward import forward_kernel
from .gpu_kernels_conv_input import input_gradient_kernel
from .gpu_kernels_conv_weight import weight_gradient_kernel
from .gpu_layout import Convolution, grid

REDUCED = 256
"""Weights that a program of the reduction sums up."""

INPUT_PRECISION = {"bf16": "tf32", "tf32": "tf32", "tf32x3": "tf32x3", "fp32": "ieee"}
"""Triton's names of the precisions; operands of 16 bits have only one way to be multiplied."""


class Layer(NamedTuple):
    """A row of the table of layers: a member's convolution, where its numbers lie, and how many there are.

    Args:
        x, weight, bias, y, dx, scratch: offsets in the buffers of a launch, multiples of 16; y is that of dy, of what
            the forward pass saves and of the slopes too.
        member: whose dropout key to use.
        dropout: which dropout of the network follows.
        rate256: of that, in 1/256.
        splits: programs that share the images of a tile of its weights' gradient.
        turns: tiles of rows that they share.
        height, width, channels: of its input, as stored.
        stride: numbers from one image of its input to the next.
        filters: true number of output channels.
        stored: the same rounded up to 16; the rest are zeros.
        padding: 0 or 1 pixels of zeros on each side.
    """

    x: int
    weight: int
    bias: int
    y: int
    dx: int
    scratch: int
    member: int
    dropout: int
    rate256: int
    splits: int
    turns: int
    height: int
    width: int
    channels: int
    stride: int
    filters: int
    stored: int
    padding: int


_CONSTANT = Layer._fields.index("height")


class Site(NamedTuple):
    """Where the numbers of a member's convolution lie in a batch: see `Layer`."""

    convolution: Convolution
    x: int
    y: int
    dx: int
    stride: int
    member: int
    dropout: int


class Work(NamedTuple):
    """A launch and its tiles int32 [T, 3]: of each kernel a row is a layer and two numbers that say what of it."""

    launch: Launch
    forward: Tensor
    input_gradient: Tensor
    weight_gradient: Tensor
    sums: Tensor


def work(
    sites: Sequence[Site],
    *,
    members: int,
    images: int,
    activation: str,
    slopes: bool,
    precision: str,
    device: torch.device,
    shared: bool = False,
) -> Work:
    """Work on convolutions that all have a pool or none, and few channels or more.

    Args:
        sites: the layers, at least one.
        members: of the population, however many of them have such a layer: they decide how gradients are split.
        images: of the batch.
        activation, slopes, precision, device: see `Launch`.
        shared: whether all layers have the same sizes, which are then compiled in.
    """
    convolutions = [site.convolution for site in sites]
    channels, stored = (max(getattr(c, name) for c in convolutions) for name in ("stored_channels", "stored_filters"))
    if not shared:  # tiles are the same in any company, and so are sums over rows and what is compiled
        stored = max(stored, WIDE)
        channels = channels if convolutions[0].few else max(channels, WIDE)
    kind = Launch(
        torch.empty(0, device="cpu"), images, convolutions[0].pool, activation, slopes,
        any(c.rate256 for c in convolutions), None, convolutions[0].few, all(map(_within, convolutions)),
        sites[0].dropout > 0,
        all(c.stored_channels % 16 == 0 for c in convolutions), all(c.filters % 16 == 0 for c in convolutions),
        is_far(convolutions, images), channels, stored, precision, device,
    )  # fmt: skip
    layers, scratch = [], 0
    for site in sites:
        layers.append(_row(site, scratch, members, images, kind.weight_tile.rows))
        scratch += layers[-1].splits * site.convolution.slab
    table = torch.tensor(layers, dtype=torch.int64, device="cpu")
    kind = kind._replace(layers=table.to(device, non_blocking=True), sizes=layers[0][_CONSTANT:] if shared else None)
    return Work(kind, *(tiles.to(device, non_blocking=True) for tiles in _tiles(kind, table, convolutions)))


def is_far(convolutions: Sequence[Convolution], images: int) -> bool:
    """Whether 32 bits cannot count the blocks of so many images, and a tile's more."""
    return any(images * (layer.height + 2) * (layer.width + 2) >= 2**31 for layer in convolutions)


def _within(layer: Convolution) -> bool:
    """Whether all pixels of all 2x2 blocks of positions lie within the image."""
    return layer.padding == 0 and (layer.pool or (layer.out_height % 2 == 0 and layer.out_width % 2 == 0))


def _row(site: Site, scratch: int, members: int, images: int, rows: int) -> Layer:
    layer = site.convolution
    return Layer(
        x=site.x, weight=layer.weight, bias=layer.bias, y=site.y, dx=site.dx, scratch=scratch, member=site.member,
        dropout=site.dropout, rate256=layer.rate256, splits=layer.splits(members, images),
        turns=-(-images * layer.blocks // rows), height=layer.height, width=layer.width,
        channels=layer.stored_channels, stride=site.stride, filters=layer.filters, stored=layer.stored_filters,
        padding=layer.padding,
    )  # fmt: skip


def _tiles(launch: Launch, table: Tensor, convolutions: Sequence[Convolution]) -> tuple[Tensor, ...]:
    """Of the kernels in the order of `Work`: rows that read the same weights follow each other."""
    named = dict(zip(Layer._fields, table.unbind(1), strict=True))
    channels, stored, images = named["channels"], named["stored"], launch.images
    forward, inputs, weights = launch.forward_tile, launch.input_tile, launch.weight_tile
    blocks = torch.tensor([layer.blocks for layer in convolutions], dtype=torch.int64, device="cpu")
    sides = [named[side] + 1 + named["padding"] for side in ("height", "width")]
    forward_rows = forward.rows * (forward.unroll if launch.few else 1)
    input_rows = _cut(images * (sides[0] // 2) * (sides[1] // 2), inputs.rows * inputs.unroll)
    input_columns = _cut(channels, inputs.columns)
    weight_tiles = _cut(stored, weights.columns)
    if launch.few:
        input_columns = channels
        if weights.depth == 0:
            weight_tiles = weight_tiles * channels
    else:
        weight_tiles = weight_tiles * 3 * _cut(4 * channels, weights.depth)
    sums = _cut((9 * channels + 1) * stored, REDUCED)
    return (
        grid(_cut(images * blocks, forward_rows), _cut(stored, forward.columns)),
        grid(input_rows, input_columns),
        grid(weight_tiles, named["splits"]),
        grid(sums, torch.ones_like(sums)),
    )


def _cut(count: Tensor, size: int) -> Tensor:
    return (count + size - 1) // size


def forward(
    work: Work,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    y: Tensor,
    saved: Tensor,
    slopes: Tensor | None,
    *,
    masks: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Convolution, bias, activation, pool and dropout.

    Args:
        work: what to do, and where in the buffers, all of them flat.
        x: [B, H, W, C] of each layer; bf16, fp16 or fp32.
        weight: [9 * C, O] of each layer, of x's dtype, taps row by row, each with all its channels.
        bias: fp32 [O] of each layer.
        y: [B, H', W', O] of each layer, of x's dtype.
        saved: uint8 like y: where the gradient goes.
        slopes: like y, the derivative that it takes on the way; None for relu, whose derivative is in `saved`.
        masks: keys int64 [M] and step int64 [1] of dropout; None for no dropout.
    """
    launch, tile = work.launch, work.launch.forward_tile
    keys, step = masks if masks is not None and launch.drops else (None, None)
    if launch.few:
        with torch.cuda.device_of(y):
            first_forward_kernel[(len(work.forward),)](
                *(x, weight, bias, y, saved, slopes, keys, step, launch.layers, work.forward, launch.images),
                *(launch.sizes, launch.channels, launch.pool, launch.activation, launch.whole, launch.within),
                *(tile.rows, tile.columns, tile.unroll, launch.far),
                **tile.options,
            )
        return
    kind = (launch.sizes, launch.aligned, launch.pool, launch.activation, launch.whole, launch.within)
    blocks = (INPUT_PRECISION[launch.precision], tile.rows, tile.depth, tile.columns, launch.far)
    with torch.cuda.device_of(y):
        forward_kernel[(len(work.forward),)](
            *(x, weight, bias, y, saved, slopes, keys, step, launch.layers, work.forward, launch.images),
            *(*kind, *blocks),
            **tile.options,
        )


def input_gradient(
    work: Work, dy: Tensor, saved: Tensor, slopes: Tensor | None, weight: Tensor, dx: Tensor, *, dropped: bool
) -> None:
    """Gradient of x.

    Args:
        work: as of `forward`.
        dy: gradient of y, like it.
        saved, slopes: from `forward`.
        weight: as there; its dtype is that of the products.
        dx: like x, but that each layer has its own.
        dropped: whether `forward` had masks.
    """
    launch, tile = work.launch, work.launch.input_tile
    tensors = (dy, saved, slopes, weight, dx, launch.layers, work.input_gradient, launch.images)
    drops = dropped and launch.drops
    with torch.cuda.device_of(dy):
        if launch.few:
            first_input_gradient_kernel[(len(work.input_gradient),)](
                *(*tensors, launch.sizes, launch.channels, launch.pool, drops, launch.stored <= tile.columns),
                *(tile.rows, tile.columns, tile.unroll, launch.far),
                **tile.options,
            )
        else:
            kind = (launch.sizes, launch.aligned, launch.pool, drops, INPUT_PRECISION[launch.precision])
            input_gradient_kernel[(len(work.input_gradient),)](
                *(*tensors, *kind, tile.rows, tile.unroll, tile.columns, tile.depth, launch.whole_patches, launch.far),
                **tile.options,
            )


def weight_gradient(
    work: Work,
    dy: Tensor,
    saved: Tensor,
    slopes: Tensor | None,
    x: Tensor,
    dweight: Tensor,
    dbias: Tensor,
    scratch: Tensor,
    *,
    dropped: bool,
) -> None:
    """Gradients of weight and bias.

    Args:
        work: as of `forward`.
        dy: gradient of y, like it.
        saved, slopes: from `forward`.
        x: as there; its dtype is that of the products.
        dweight: fp32 [9 * C, O] of each layer.
        dbias: fp32 [O] of each layer.
        scratch: fp32, `Layout.scratch` values of any content.
        dropped: whether `forward` had masks.
    """
    launch, tile = work.launch, work.launch.weight_tile
    tensors = (dy, saved, slopes, x, scratch, launch.layers, work.weight_gradient, launch.images)
    drops = dropped and launch.drops
    with torch.cuda.device_of(dy):
        if launch.few:
            first_weight_gradient_kernel[(len(work.weight_gradient),)](
                *(*tensors, launch.sizes, launch.channels, launch.pool, drops, launch.within),
                *(tile.rows, tile.columns, tile.depth, launch.far),
                **tile.options,
            )
        else:
            kind = (launch.sizes, launch.aligned, launch.pool, drops, INPUT_PRECISION[launch.precision])
            weight_gradient_kernel[(len(work.weight_gradient),)](
                *(*tensors, *kind, tile.rows, tile.depth, tile.columns, launch.within, launch.far), **tile.options
            )
        reduce_kernel[(len(work.sums),)](
            *(scratch, dweight, dbias, launch.layers, work.sums),
            *(launch.sizes, launch.aligned, launch.few, REDUCED),
            num_warps=4,
            enable_fp_fusion=True,
        )
