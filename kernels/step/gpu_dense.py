"""Dense layers of many members as Triton kernels: one launch computes layers of any sizes, from a table of tiles.

A row of the table of layers says where a layer's numbers lie and how many there are (`Layer`); a row of the table of
tiles is (layer, tile of rows, tile of columns). Offsets count elements from the pointers that a launch is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .gpu_kernels_dense import forward_kernel, input_gradient_kernel, weight_gradient_kernel
from .gpu_layout import grid

BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS = 64, 64, 64
DEPTHS = {"fp32": 32, "tf32x3": 32, "tf32": 32, "bf16": 64}  # of the blocks that are summed over: 128 bytes a row
BATCH_DEPTHS = {"fp32": 32, "tf32": 64, "bf16": 64}  # likewise of weight gradients; 32 in tf32 spills on sm_100
INPUT_PRECISION = {"fp32": "ieee", "tf32x3": "tf32x3", "tf32": "tf32", "bf16": "ieee"}
"""Triton's names of the precisions, which it heeds for float32 operands alone."""
OPTIONS = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
BATCH_OPTIONS = OPTIONS | {"num_stages": 2}  # of weight gradients, which take few steps through a batch


class Layer(NamedTuple):
    """A row of the table of layers. Rows of x, y, dx, dz and the weights lie `*_stride` apart.

    Args:
        x, weight, bias, y: offsets of the forward pass; y is also the offset of its slopes.
        dx, dz: offsets of the gradients of x and of the sums before the activation.
        x_stride, weight_stride, y_stride: distances of rows; those of dx and dz are x's and y's.
        inputs: of each sum.
        outputs: how many there are.
        stored: how many are written, zeros past the outputs.
        member: whose dropout key to use.
        dropout: which dropout of the network follows.
        rate256: of that, in 256ths.
        x_rate256: of the dropout that made x.
    """

    x: int
    weight: int
    bias: int
    y: int
    dx: int
    dz: int
    x_stride: int
    weight_stride: int
    y_stride: int
    inputs: int
    outputs: int
    stored: int
    member: int
    dropout: int
    rate256: int
    x_rate256: int


class Tables(NamedTuple):
    """Layers int64 [L, fields of `Layer`]; tiles int32 [T, 3].

    And whether all offsets and sizes are multiples of 16, any layer is followed by dropout, and any x was made by it.
    """

    layers: Tensor
    tiles: Tensor
    aligned: bool
    drops: bool
    dropped: bool


def tables(layers: Sequence[Layer], tiles: Tensor, device: torch.device) -> Tables:
    """The tables of a launch, on the device."""
    aligned = all(value % 16 == 0 for layer in layers for value in (*layer[:10], layer.stored))
    table = torch.tensor(layers, dtype=torch.int64, device="cpu").reshape(-1, len(Layer._fields))
    drops, dropped = (any(rates) for rates in zip(*((layer.rate256, layer.x_rate256) for layer in layers), strict=True))
    table, tiles = (each.to(device, non_blocking=True) for each in (table, tiles))  # nobody waits for earlier work
    return Tables(table, tiles, aligned, drops, dropped)


def output_tiles(layers: Sequence[Layer], rows: int) -> Tensor:
    """Tiles of y: all rows of one tile of outputs follow each other, because they read the same weights."""
    return grid(_cuts([rows] * len(layers), BLOCK_ROWS), _cuts([layer.stored for layer in layers], BLOCK_OUTPUTS))


def input_tiles(layers: Sequence[Layer], rows: int) -> Tensor:
    """Tiles of dx."""
    return grid(_cuts([rows] * len(layers), BLOCK_ROWS), _cuts([layer.inputs for layer in layers], BLOCK_OUTPUTS))


def weight_tiles(layers: Sequence[Layer]) -> Tensor:
    """Tiles of the weight gradients."""
    columns = _cuts([layer.inputs for layer in layers], BLOCK_INPUTS)
    return grid(columns, _cuts([layer.stored for layer in layers], BLOCK_OUTPUTS))[:, [0, 2, 1]]


def _cuts(sizes: Sequence[int], block: int) -> Tensor:
    return torch.tensor([triton.cdiv(size, block) for size in sizes], dtype=torch.int64, device="cpu")


def launch_forward(
    table: Tables,
    x: Tensor,
    weights: Tensor,
    biases: Tensor,
    y: Tensor,
    rows: int,
    *,
    activation: str = "none",
    slopes: Tensor | None = None,
    masks: tuple[Tensor, Tensor] | None = None,
    precision: str = "fp32",
) -> None:
    """Forward pass of all layers of a table, in place and without a synchronization.

    Args:
        table: layers and their tiles (`output_tiles`).
        x, weights, biases, y: what the offsets count from; biases float32.
        rows: of x and y.
        activation: `relu`, `sigmoid`, `tanh`, `gelu` or `none`.
        slopes: like y, for the activation's (and dropout's) slopes; None where they are not needed.
        masks: dropout keys int64 [M] and step int64 [1]; None for no dropout.
        precision: `fp32`, `tf32x3`, `tf32` or `bf16`.
    """
    keys, step = masks or (table.layers, table.layers)
    tensors = (x, weights, biases, y, y if slopes is None else slopes, *table[:2], keys, step)
    kind = (activation, masks is not None and table.drops, slopes is not None, table.aligned, len(Layer._fields))
    forward_kernel[(len(table.tiles),)](*tensors, rows, *kind, *_blocks(precision), **OPTIONS)


def launch_input_gradient(
    table: Tables,
    dz: Tensor,
    weights: Tensor,
    dx: Tensor,
    rows: int,
    *,
    x: Tensor | None = None,
    slopes: Tensor | None = None,
    dropped: bool = False,
    precision: str = "fp32",
) -> None:
    """Gradient of all layers' x, multiplied by the slope of the activation (and dropout) that made it.

    Args:
        table: layers and their tiles (`input_tiles`).
        dz, weights, dx: what the offsets count from.
        rows: of dz and dx.
        x: where a ReLU made x, what it made; the slope is then taken from its sign.
        slopes: of another activation, as the forward pass stored them; with neither, the gradient is of x itself.
        dropped: whether the forward pass had masks.
        precision: `fp32`, `tf32x3`, `tf32` or `bf16`.
    """
    slope = "stored" if slopes is not None else "none" if x is None else "relu"
    tensors = (dz, weights, dx, dx if x is None else x, dx if slopes is None else slopes, *table[:2])
    kind = (slope, dropped and table.dropped, table.aligned, len(Layer._fields))
    input_gradient_kernel[(len(table.tiles),)](*tensors, rows, *kind, *_blocks(precision), **OPTIONS)


def launch_weight_gradient(
    table: Tables, dz: Tensor, x: Tensor, weights: Tensor, biases: Tensor, rows: int, *, precision: str = "fp32"
) -> None:
    """Gradients of all layers' weights and biases, float32: sums over the rows in a fixed order.

    Args:
        table: layers and their tiles (`weight_tiles`).
        dz, x: what the offsets count from.
        weights, biases: float32, where the gradients go.
        rows: of dz and x.
        precision: `fp32`, `tf32` or `bf16`.
    """
    kind = (table.aligned, len(Layer._fields))
    tensors = (dz, x, weights, biases, *table[:2])
    weight_gradient_kernel[(len(table.tiles),)](
        *tensors, rows, *kind, *_blocks(precision, BATCH_DEPTHS), **BATCH_OPTIONS
    )


def _blocks(precision: str, depths: dict[str, int] = DEPTHS) -> tuple[str, int, int, int]:
    return INPUT_PRECISION[precision], BLOCK_ROWS, BLOCK_OUTPUTS, depths[precision]
