"""The tiles of convolutions' kernels on a GPU: which are taken for which precision, layers and card."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .gpu_layout import GRADIENT_COLUMNS, GRADIENT_TAPS

WIDE = 64
"""Channels or filters that fill the widest tiles."""


class Tile(NamedTuple):
    """The tile sizes of a kernel.

    Args:
        rows: 2x2 blocks of a program (of one turn of its loop, for the weight gradient).
        columns: largest block of what is summed up for: filters, or channels for the input gradient.
        depth: largest block of what is summed over; for the weight gradient, of the taps.
        unroll: tiles of rows that a program of the input gradient, or of the first convolution, takes one after the
            other.
        warps: of a program.
        stages: of the loop's pipeline.
        registers: most of a thread, so that several programs fit a multiprocessor; 0 for no limit.
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
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True} | limit


FORWARD = {
    "bf16": Tile(64, 64, 32, 1, 8, 3),
    "tf32": Tile(64, 32, 32, 1, 8),
    "tf32x3": Tile(32, 64, 32, 1, 8),
    "fp32": Tile(32, 64, 16, 1, 8),
}
INPUT_GRADIENT = {
    "bf16": Tile(64, 32, 64, 4, 4, 2),
    "tf32": Tile(64, 32, 32, 1, 4, 2),
    "tf32x3": Tile(64, 32, 16, 1, 4),
    "fp32": Tile(16, 32, 16, 1, 8),
}
WEIGHT_GRADIENT = {
    "bf16": Tile(32, GRADIENT_COLUMNS, GRADIENT_TAPS, 1, 8, 3),
    "tf32": Tile(32, 64, 64, 1, 8, 2),
    "tf32x3": Tile(16, 64, 64, 1, 8),
    "fp32": Tile(16, 32, 32, 1, 8),
}
"""Of those that no registers spill for, or a few bytes with some versions, the fastest on an H100 for the paper's MNIST
networks; those of tf32 were not timed. bench/gpu_launches.py times others."""
FIRST_FORWARD = {precision: Tile(32, 32, 0, 4, 4, 1, 128) for precision in FORWARD} | {"bf16": Tile(64, 32, 0, 8, 4)}
FIRST_INPUT_GRADIENT = {precision: Tile(8, 32, 0, 8, 2) for precision in FORWARD}
FIRST_WEIGHT_GRADIENT = {precision: Tile(16, 32, 0, 1, 4) for precision in FORWARD}
FIRST_WEIGHT_GRADIENT |= {"bf16": Tile(32, 32, 1, 1, 4, 3)}
"""Of the convolution of images."""
FORWARD_OF_TABLE = FORWARD | {"bf16": Tile(64, 32, 32, 1, 8)}
INPUT_GRADIENT_OF_TABLE = INPUT_GRADIENT | {"bf16": Tile(64, 32, 32, 1, 4, 2)}
"""Where sizes are read from the table: those take registers too, which more warps have."""


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
        within: whether no position sees pixels beyond its image.
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
    within: bool
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
        """Of the forward kernel: depth is of the channels."""
        if self.few:
            return self._first(FIRST_FORWARD)
        tile = _tile(FORWARD_OF_TABLE if self.sizes is None else FORWARD, self.precision, self.device)
        # A derivative beside the activation takes registers that wide tiles do not leave, and so do all positions'
        # places where no pool makes them fewer.
        narrow = self.slopes or not self.pool
        columns = _power(self.stored, max(16, tile.columns // 2) if narrow else tile.columns)
        return tile._replace(columns=columns, depth=_power(self.channels, tile.depth))

    @property
    def input_tile(self) -> Tile:
        """Of the input gradient's kernel: depth is of the filters, columns are of the channels."""
        if self.few:
            return self._first(FIRST_INPUT_GRADIENT)
        tabled = self.sizes is None
        tile = _tile(INPUT_GRADIENT_OF_TABLE if tabled else INPUT_GRADIENT, self.precision, self.device)
        columns, depth = _power(self.channels, tile.columns), _power(self.stored, tile.depth)
        if not self._patches(depth):
            # Rows of taps read more of the gradient at a time; slopes and sizes of the table take registers too.
            depth = min(depth, 16 if tabled and self.slopes else 32)
            return tile._replace(columns=columns, depth=depth, unroll=1)
        return tile._replace(columns=columns, depth=depth)

    def _patches(self, depth: int) -> bool:
        """Whether the input gradient reads patches as a whole: their operands must fit registers."""
        return self.pool and not self.slopes and self.stored <= depth and self.precision in ("bf16", "tf32")

    @property
    def whole_patches(self) -> bool:
        """Whether the input gradient's kernel reads patches as a whole, and the weights once."""
        return self._patches(self.input_tile.depth)

    @property
    def weight_tile(self) -> Tile:
        """Of the weight gradient's kernel: depth is of the taps."""
        if self.few:
            return self._first(FIRST_WEIGHT_GRADIENT)
        tile = _tile(WEIGHT_GRADIENT, self.precision, self.device)
        rows = tile.rows if self.pool else max(16, tile.rows // 2)  # without a pool there are four gradients to a block
        columns, depth = _power(self.stored, tile.columns), _power(4 * self.channels, tile.depth)
        return tile._replace(rows=rows, columns=columns, depth=depth)

    def _first(self, tiles: dict[str, Tile]) -> Tile:
        """Of the first convolution's kernels: columns are of the filters, a depth (of 1) asks for products."""
        tile = tiles[self.precision]
        # A gradient times its slope has more digits than 16 bits.
        depth = triton.next_power_of_2(16 * self.channels) if tile.depth and not self.slopes else 0
        # Where sizes are read from a table, or slopes or four gradients a block, the limit would make registers spill.
        simple = self.sizes is not None and self.pool and self.channels == 1 and not self.slopes
        registers = tile.registers if simple else 0
        return tile._replace(columns=_power(self.stored, tile.columns), depth=depth, registers=registers)


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
