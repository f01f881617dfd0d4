"""Where op step keeps a population in device memory: parameters in one flat buffer, a batch's numbers in another.

Nothing here needs Triton or a GPU: the plan asks it for bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference

UNIT = 16  # numbers; widths are rounded up to it, so that every row can be loaded 16 bytes at a time
EVALUATION_ROWS = 128  # images of a forward pass in evaluation
SPLITS = 512  # into how many parts the convolutions' weight gradients are cut at most, over the members
Piece = tuple[tuple[int, ...], torch.dtype]


def rounded(count: int) -> int:
    """The next multiple of `UNIT`."""
    return -(-count // UNIT) * UNIT


class Convolution(NamedTuple):
    """A stem's layer: what goes in and comes out, and where its stacked weights [M, 9 * channels, filters] lie."""

    channels: int
    height: int
    width: int
    filters: int
    padding: int
    pool: bool
    drops: bool
    out_height: int
    out_width: int
    weight: int
    bias: int


class Dense(NamedTuple):
    """A member's dense layer: true and stored sizes, and where weight [stored outputs, stored inputs] and bias lie."""

    inputs: int
    outputs: int
    stored_inputs: int
    stored_outputs: int
    weight: int
    bias: int


class Layout:
    """The parameters of M networks: the stem's stacked over the members, then each head, padded to multiples of 16.

    Args:
        image_shape, classes, hidden, stem: as of `Step`.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, hidden: Sequence[Sequence[int]], stem: str
    ) -> None:
        self.image_shape, self.classes, self.members = image_shape, classes, len(hidden)
        self.segments: list[tuple[int, int, int]] = []  # start, end and member of everything stored
        self.size = 0
        channels, height, width = image_shape
        self.convolutions: list[Convolution] = []
        for layer in reference.STEMS[stem]:
            sides = [(side - 2 + 2 * layer.padding) // (2 if layer.pool else 1) for side in (height, width)]
            offsets = (self._stack(9 * channels * layer.channels), self._stack(layer.channels))
            kind = (layer.channels, layer.padding, layer.pool, layer.drops)
            self.convolutions.append(Convolution(channels, height, width, *kind, sides[0], sides[1], *offsets))
            channels, (height, width) = layer.channels, sides
        self.features = (channels, height, width)
        self.heads = [self._head((math.prod(self.features), *widths, classes), m) for m, widths in enumerate(hidden)]

    @property
    def pixels(self) -> int:
        """Numbers of an image as the networks take it: rounded up where the first layer is a dense one."""
        count = math.prod(self.image_shape)
        return count if self.convolutions else rounded(count)

    def _stack(self, count: int) -> int:
        """Room for so many numbers of each member, one member behind the other."""
        start = self.size
        for member in range(self.members):
            self._take(count, member)
        return start

    def _take(self, count: int, member: int) -> int:
        start = self.size
        self.size += rounded(count)
        self.segments.append((start, self.size, member))
        return start

    def _head(self, sizes: Sequence[int], member: int) -> list[Dense]:
        layers = []
        for inputs, outputs in pairwise(sizes):
            stored = rounded(inputs), rounded(outputs)
            layers.append(
                Dense(inputs, outputs, *stored, self._take(math.prod(stored), member), self._take(stored[1], member))
            )
        return layers

    def views(self, buffer: Tensor, member: int) -> list[Tensor]:
        """A member's parameters in a flat buffer, in torch's order of layers and their own shapes."""
        arrays = []
        for layer in self.convolutions:
            shape = (9 * layer.channels, layer.filters)
            arrays.append(buffer[layer.weight + member * math.prod(shape) :][: math.prod(shape)].view(shape))
            arrays.append(buffer[layer.bias + member * layer.filters :][: layer.filters])
        for dense in self.heads[member]:
            shape = (dense.stored_outputs, dense.stored_inputs)
            weight = buffer[dense.weight :][: math.prod(shape)].view(shape)
            arrays.append(weight[: dense.outputs, : dense.inputs])
            arrays.append(buffer[dense.bias :][: dense.outputs])
        return arrays

    def stored(self, index: int, array: Tensor) -> Tensor:
        """A parameter of torch's shape as the buffer has it: taps first in convolutions, channels last behind them."""
        if array.ndim == 4:
            return array.permute(2, 3, 1, 0).reshape(-1, len(array))
        if self.convolutions and index == 2 * len(self.convolutions):
            return array.view(-1, *self.features).permute(0, 2, 3, 1).reshape(len(array), -1)
        return array

    def public(self, index: int, array: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The inverse of `stored`."""
        if len(shape) == 4:
            return array.view(3, 3, shape[1], shape[0]).permute(3, 2, 0, 1).reshape(shape)
        if self.convolutions and index == 2 * len(self.convolutions):
            channels, height, width = self.features
            return array.reshape(-1, height, width, channels).permute(0, 3, 1, 2).reshape(shape)
        return array

    def stacked(self, buffer: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """All members' weights [M, 9 * channels, filters] and biases [M, filters] of a convolution."""
        layer = self.convolutions[index]
        weight, bias = (self.members, 9 * layer.channels, layer.filters), (self.members, layer.filters)
        return (
            buffer[layer.weight :][: math.prod(weight)].view(weight),
            buffer[layer.bias :][: math.prod(bias)].view(bias),
        )


class Places:
    """Offsets of a batch's numbers: y of the layers and the images in one buffer, their gradients in another.

    Args:
        layout: of the parameters.
        rows: images of the batch.
        sets: 1 where all members see the same images, else M.
    """

    def __init__(self, layout: Layout, rows: int, sets: int) -> None:
        self.rows, self.sets = rows, sets
        at = 0
        self.hidden: list[list[int]] = []
        for head in layout.heads:
            sizes = [rows * dense.stored_outputs for dense in head[:-1]]
            self.hidden.append([at + sum(sizes[:i]) for i in range(len(sizes))])
            at += sum(sizes)
        self.hidden_size = at
        self.stem: list[int] = []
        for layer in layout.convolutions:
            self.stem.append(at)
            at += rounded(layout.members * rows * layer.out_height * layer.out_width * layer.filters)
        self.images = at
        # The gradients of the logits follow those of the layers; those of the images, of each member, come last.
        self.forward_size = at + sets * rows * layout.pixels
        self.logits_stride = rounded(layout.classes)
        self.logits = at
        self.image_gradients = at + layout.members * rows * self.logits_stride

    def shapes(
        self, layout: Layout, dtype: torch.dtype, *, slopes: bool, backward: str, scratch: int = 0
    ) -> dict[str, Piece]:
        """Shape and dtype of every buffer of a batch.

        Args:
            layout: of the parameters.
            dtype: of activations and their gradients.
            slopes: whether the activation's slopes are stored.
            backward: `none`, `weights` or `images`: what gradients are wanted of.
            scratch: float32 numbers that the convolutions' weight gradients need.
        """
        rows, members = self.rows, layout.members
        shapes: dict[str, Piece] = {
            "values": ((self.forward_size,), dtype),
            "logits": ((members, rows, self.logits_stride), torch.float32),
            "labels": ((self.sets, rows), torch.int64),
        }
        outs = [(members, rows, layer.out_height, layer.out_width, layer.filters) for layer in layout.convolutions]
        shapes |= {f"saved{i}": (shape, torch.uint8) for i, shape in enumerate(outs)}
        if slopes:
            shapes |= {f"slopes{i}": (shape, dtype) for i, shape in enumerate(outs)}
            shapes["slopes"] = ((self.hidden_size,), dtype)
        if backward != "none":
            images = members * rows * layout.pixels if backward == "images" else 0
            shapes["gradients"] = ((self.image_gradients + images,), dtype)
            shapes["scratch"] = ((scratch,), torch.float32)
        return shapes


def total_bytes(shapes: dict[str, Piece]) -> int:
    """Bytes of a batch's buffers, each at a multiple of 256."""
    return sum(-(-math.prod(shape) * dtype.itemsize // 256) * 256 for shape, dtype in shapes.values())


def device_bytes(layout: Layout, activation: str, *, precision: str, batch: int) -> int:
    """Bytes that a population of this layout takes on a GPU, to within the convolutions' scratch memory.

    Args:
        layout: of the parameters.
        activation: as of `Step`.
        precision, batch: of training.
    """
    reduced = precision == "bf16"
    parameters = layout.size * (4 * 4 + 2 * reduced)  # values, gradients, two moments; a copy
    weights = [(24 * layer.channels + 1) * layer.filters for layer in layout.convolutions]
    scratch = (SPLITS + layout.members) * max(weights, default=0)
    slopes, dtype = activation != "relu", torch.bfloat16 if reduced else torch.float32
    training = Places(layout, batch, layout.members).shapes(
        layout, dtype, slopes=slopes, backward="weights", scratch=scratch
    )
    evaluation = Places(layout, EVALUATION_ROWS, layout.members).shapes(
        layout, torch.float32, slopes=slopes, backward="images"
    )
    return parameters + max(total_bytes(training), total_bytes(evaluation))


def carve(memory: Tensor, shapes: dict[str, Piece]) -> dict[str, Tensor]:
    """The buffers of a batch as views of uint8 memory, one behind the other."""
    buffers, at = {}, 0
    for name, (shape, dtype) in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        buffers[name] = memory[at : at + size].view(dtype).view(shape)
        at += -(-size // 256) * 256
    return buffers
