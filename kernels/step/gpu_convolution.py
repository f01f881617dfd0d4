"""Convolution blocks of a population on a GPU: channels innermost, all members that have a layer in one launch.

Numbers lie in flat buffers, and a table says where each member's are. Every function fills its outputs completely,
launches and returns: it allocates nothing and waits for nothing, so that a CUDA graph can hold it. Sums have a fixed
order, so results repeat bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .gpu_kernels_conv_backward import input_gradient_kernel, reduce_kernel, weight_gradient_kernel
from .gpu_kernels_conv_forward import forward_kernel
from .gpu_layout import FEW, GRADIENT_COLUMNS, GRADIENT_ROWS, GRADIENT_TAPS, Convolution

REDUCED = 256
"""Weights that a program of the reduction sums up."""

WIDE = 64
"""Channels or filters that fill the widest tiles."""

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
        registers: most of a thread's, so that more programs fit a multiprocessor; 0 for no limit.
    """

    rows: int
    columns: int
    depth: int
    unroll: int
    warps: int
    stages: int = 1
    registers: int = 0

    @property
    def options(self) -> dict[str, int | bool]:
        """As Triton calls them."""
        limit = {"maxnreg": self.registers} if self.registers else {}
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True, **limit}


FORWARD = {
    "bf16": Tile(64, 64, 32, 1, 8, 1, 128),
    "tf32": Tile(64, 32, 32, 1, 8),
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
    "bf16": Tile(GRADIENT_ROWS, GRADIENT_COLUMNS, GRADIENT_TAPS, 1, 8, 2),
    "tf32": Tile(32, 64, 64, 1, 8, 2),
    "tf32x3": Tile(16, 64, 64, 1, 8),
    "fp32": Tile(16, 32, 32, 1, 8),
}
"""The largest that no registers spill for, or a few bytes with some versions; not yet tuned on a card."""
FORWARD_OF_TABLE = FORWARD | {"bf16": Tile(64, 32, 32, 1, 8)}
INPUT_GRADIENT_OF_TABLE = INPUT_GRADIENT | {"bf16": Tile(64, 64, 32, 1, 8), "tf32x3": Tile(64, 16, 16, 1, 8)}
"""Where sizes are read from the table: those take registers too, which more warps have."""


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


class Launch(NamedTuple):
    """What the kernels need to know of a launch's layers; `launch` makes it.

    Args:
        layers: int64 [L, fields of `Layer`].
        images: of each layer.
        pool: whether a 2x2 max-pool follows the activation; odd rows and columns are dropped, the first of equals wins.
        activation: relu, sigmoid, tanh or gelu.
        slopes: whether its derivative is stored; relu's is known from the output.
        drops: whether dropout follows any layer.
        sizes: the last fields of `Layer`, from the height on, where all members have the same; else None.
        few: whether inputs are images of few channels.
        inner: whether inputs are other layers' outputs.
        aligned: whether all channels are multiples of 16.
        whole: whether all filters are.
        far: whether 32 bits cannot count the 2x2 blocks of all images.
        channels, stored: what tiles are made for: the most of any layer.
        precision: how fp32 operands are multiplied: tf32, tf32x3 (three products for nearly fp32) or fp32; bf16 for
            operands of 16 bits.
        device: where it runs.
    """

    layers: Tensor
    images: int
    pool: bool
    activation: str
    slopes: bool
    drops: bool
    sizes: tuple[int, ...] | None
    few: bool
    inner: bool
    aligned: bool
    whole: bool
    far: bool
    channels: int
    stored: int
    precision: str
    device: torch.device

    @property
    def forward_tile(self) -> Tile:
        """Of the forward kernel: depth is of the channels (or, where they are few, of all taps)."""
        tabled = self.sizes is None and not self.few
        tile = _tile(FORWARD_OF_TABLE if tabled else FORWARD, self.precision, self.device)
        # A derivative beside the activation takes registers that wide tiles do not leave.
        columns = _power(self.stored, max(16, tile.columns // 2) if self.slopes else tile.columns)
        depth = _power(9 * self.channels, 64) if self.few else _power(self.channels, tile.depth)
        # Triton before 3.8 makes an unrolled loop within a loop a mere trap where accumulators have a memory of their
        # own.
        loops = self.sizes is None or depth < self.channels
        unroll = 1 if loops and _capability(self.device) == 10 else tile.unroll
        return tile._replace(columns=columns, depth=depth, unroll=unroll)

    @property
    def input_tile(self) -> Tile:
        """Of the input gradient's kernel: depth is of the filters, columns are of the channels."""
        tabled = self.sizes is None and not self.few
        tile = _tile(INPUT_GRADIENT_OF_TABLE if tabled else INPUT_GRADIENT, self.precision, self.device)
        columns = 4 * FEW if self.few else _power(self.channels, tile.columns)
        depth = max(16, tile.depth // 2) if tabled and self.slopes else tile.depth  # slopes take registers as well
        return tile._replace(columns=columns, depth=_power(self.stored, depth))

    @property
    def weight_tile(self) -> Tile:
        """Of the weight gradient's kernel: depth is of the taps."""
        tile = _tile(WEIGHT_GRADIENT, self.precision, self.device)
        depth = _power(9 * self.channels, 64) if self.few else _power(4 * self.channels, tile.depth)
        rows = tile.rows if self.pool else max(16, tile.rows // 2)  # without a pool there are four gradients to a block
        # Of one channel, two stages leave three registers too few on capability 9 (Triton 3.8).
        stages = 3 if self.channels == 1 and self.precision == "bf16" else tile.stages
        return tile._replace(rows=rows, columns=_power(self.stored, tile.columns), depth=depth, stages=stages)


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
        any(c.rate256 for c in convolutions), None, convolutions[0].few, sites[0].dropout > 0,
        all(c.stored_channels % 16 == 0 for c in convolutions), all(c.filters % 16 == 0 for c in convolutions),
        is_far(convolutions, images), channels, stored, precision, device,
    )  # fmt: skip
    layers, scratch = [], 0
    for site in sites:
        layers.append(_row(site, scratch, members, images, kind.weight_tile.rows))
        scratch += layers[-1].splits * site.convolution.slab
    table = torch.tensor(layers, dtype=torch.int64, device="cpu")
    kind = kind._replace(layers=table.to(device), sizes=layers[0][_CONSTANT:] if shared else None)
    return Work(kind, *(tiles.to(device) for tiles in _tiles(kind, table, convolutions)))


def is_far(convolutions: Sequence[Convolution], images: int) -> bool:
    """Whether 32 bits cannot count the blocks of so many images, and a tile's more."""
    return any(images * (layer.height + 2) * (layer.width + 2) >= 2**31 for layer in convolutions)


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
    input_rows = _cut(images * (sides[0] // 2) * (sides[1] // 2), inputs.rows)
    input_columns = _cut(channels, inputs.columns)
    weight_tiles = _cut(stored, weights.columns)
    if launch.few:
        input_columns = torch.ones_like(channels)
    else:
        weight_tiles = weight_tiles * 3 * _cut(4 * channels, weights.depth)
    sums = _cut((9 * channels + 1) * stored, REDUCED)
    return (
        _grid(_cut(images * blocks, forward.rows), _cut(stored, forward.columns)),
        _grid(input_rows, input_columns),
        _grid(weight_tiles, named["splits"]),
        _grid(sums, torch.ones_like(sums)),
    )


def _cut(count: Tensor, size: int) -> Tensor:
    return (count + size - 1) // size


def _grid(first: Tensor, second: Tensor) -> Tensor:
    """Rows (layer, i, j) for i below first[layer] and j below second[layer], i the fastest."""
    counts = first * second
    layers = torch.repeat_interleave(counts)
    number = torch.arange(len(layers), dtype=torch.int64, device="cpu") - (counts.cumsum(0) - counts)[layers]
    return torch.stack([layers, number % first[layers], number // first[layers]], 1).to(torch.int32)


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
    kind = (launch.sizes, launch.aligned, launch.pool, launch.activation, launch.whole)
    blocks = (
        INPUT_PRECISION[launch.precision],
        tile.rows,
        tile.depth,
        tile.columns,
        launch.few,
        tile.unroll,
        launch.far,
    )
    with torch.cuda.device_of(y):
        forward_kernel[(len(work.forward),)](
            *(x, weight, bias, y, saved, slopes, keys, step, launch.layers, work.forward, launch.images),
            *(*kind, *blocks),
            **tile.options,
        )


def input_gradient(work: Work, dy: Tensor, saved: Tensor, slopes: Tensor | None, weight: Tensor, dx: Tensor) -> None:
    """Gradient of x.

    Args:
        work: as of `forward`.
        dy: gradient of y, like it.
        saved, slopes: from `forward`.
        weight: as there; its dtype is that of the products.
        dx: like x, but that each layer has its own.
    """
    launch, tile = work.launch, work.launch.input_tile
    kind = (launch.sizes, launch.aligned, launch.pool, INPUT_PRECISION[launch.precision])
    with torch.cuda.device_of(dy):
        input_gradient_kernel[(len(work.input_gradient),)](
            *(dy, saved, slopes, weight, dx, launch.layers, work.input_gradient, launch.images),
            *(*kind, tile.rows, tile.columns, tile.depth, launch.few, tile.unroll, launch.far),
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
    """
    launch, tile = work.launch, work.launch.weight_tile
    kind = (launch.sizes, launch.aligned, launch.pool, INPUT_PRECISION[launch.precision])
    with torch.cuda.device_of(dy):
        weight_gradient_kernel[(len(work.weight_gradient),)](
            *(dy, saved, slopes, x, scratch, launch.layers, work.weight_gradient, launch.images),
            *(*kind, tile.rows, tile.depth, tile.columns, launch.few, launch.far),
            **tile.options,
        )
        reduce_kernel[(len(work.sums),)](
            *(scratch, dweight, dbias, launch.layers, work.sums),
            *(launch.sizes, launch.aligned, launch.few, REDUCED),
            num_warps=4,
            enable_fp_fusion=True,
        )


def _tile(tiles: dict[str, Tile], precision: str, device: torch.device) -> Tile:
    """That of a precision or, where both operands of a product pass through registers, a smaller one."""
    tile = tiles[precision]
    if _capability(device) in (9, 10):  # where products read shared memory themselves; 12 multiplies as 8 does
        return tile
    depth, rows = max(16, tile.depth // 2), 16 if precision == "tf32x3" else 32  # parts of operands take registers too
    return tile._replace(rows=min(tile.rows, rows), columns=min(tile.columns, 16), depth=depth, unroll=1)


@functools.cache
def _capability(device: torch.device) -> int:
    """Major compute capability; that of the largest tiles where no card is (in the interpreter)."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9


def _power(count: int, most: int) -> int:
    """The size of a block for so many: a power of two, and at least 16, as tensor cores ask."""
    return min(max(16, triton.next_power_of_2(count)), most)
