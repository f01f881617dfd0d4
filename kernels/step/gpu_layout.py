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

from .reference import ConvLayer

UNIT = 16  # numbers; widths are rounded up to it, so that every row can be loaded 16 bytes at a time
EVALUATION_ROWS = 256  # most images of a forward pass in evaluation
EVALUATION_BYTES = 2**32  # what their numbers may take, where training does not take more
FEW = 4  # most channels of an image whose convolution has kernels of its own
PROGRAMS = 768  # at most so many share a first launch's weight gradients: six for each multiprocessor of a large card
LARGE_PROGRAMS = 264  # likewise, at most, of those that take most of a multiprocessor: no wave is begun for a few

GRADIENT_ROWS, GRADIENT_COLUMNS, GRADIENT_TAPS = 64, 64, 128  # the largest tile of a convolution's weight gradient
Piece = tuple[tuple[int, ...], torch.dtype]


def rounded(count: int) -> int:
    """The next multiple of `UNIT`."""
    return -(-count // UNIT) * UNIT


class Convolution(NamedTuple):
    """A member's 3x3 convolution: what goes in and comes out, true and stored, and where weight and bias lie.

    Channels of images are stored as they are, those of layers rounded up to 16. Weights are
    [9 * stored channels, stored filters], taps row by row.
    """

    height: int
    width: int
    channels: int
    filters: int
    padding: int
    pool: bool
    rate256: int
    out_height: int
    out_width: int
    stored_channels: int
    stored_filters: int
    weight: int
    bias: int

    @property
    def few(self) -> bool:
        """Whether it has the kernels of images, of few channels."""
        return self.stored_channels <= FEW

    @property
    def blocks(self) -> int:
        """2x2 blocks of an image's positions; a pool drops those that are not whole."""
        if self.pool:
            return self.out_height * self.out_width
        return -(-self.out_height // 2) * -(-self.out_width // 2)

    @property
    def slab(self) -> int:
        """Numbers of a part of the weight gradient: each tap once, or for two positions apart, and the biases."""
        return ((9 if self.few else 24) * self.stored_channels + 1) * self.stored_filters

    def splits(self, members: int, images: int) -> int:
        """Number of programs that share the images of a tile of weights: whatever the precision, as scratch is."""
        tiles = -(-self.stored_filters // GRADIENT_COLUMNS)
        most = -(-images * self.blocks // GRADIENT_ROWS)
        if self.few:
            return max(1, min(PROGRAMS // (members * tiles), most))
        tiles *= 3 * -(-4 * self.stored_channels // GRADIENT_TAPS)
        return max(1, min(LARGE_PROGRAMS // (members * tiles), most))


class Dense(NamedTuple):
    """A member's dense layer: true and stored sizes, and where weight [stored outputs, stored inputs] and bias lie.

    A convolution of images of one pixel is one too: its weight is that of the middle tap, the fifth of nine, and the
    others, which meet nothing but padding, lie around it and have no gradient.
    """

    inputs: int
    outputs: int
    stored_inputs: int
    stored_outputs: int
    weight: int
    bias: int
    rate256: int
    features: tuple[int, ...]
    """(H, W, C, stored C) where inputs are an image's or a convolution's, channels innermost; else empty."""
    taps: int
    """Where the nine taps begin; -1 where there are none."""


class Layout:
    """The parameters of M networks: convolutions, then dense layers, padded to multiples of 16.

    Args:
        image_shape, classes, hidden: as of `Step`.
        chains: each member's convolutions, of 3x3 with stride 1, with a pool of 2x2 or none.
        head_rate256: dropout rate after each hidden layer, in 256ths.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        hidden: Sequence[Sequence[int]],
        chains: Sequence[Sequence[ConvLayer]],
        head_rate256: int = 0,
    ) -> None:
        self.image_shape, self.classes, self.members = image_shape, classes, len(hidden)
        self.planar = not any(chains)
        self.pixels = rounded(math.prod(image_shape))
        """Numbers of an image as the networks take it."""
        self.segments: list[tuple[int, int, int]] = []  # start, end and member of all that is trained
        self.idle: list[tuple[int, int]] = []  # start and end of what of it no gradient reaches
        self.size = 0
        self.chains: list[list[Convolution]] = []
        self.heads: list[list[Dense]] = []
        for member, (widths, chain) in enumerate(zip(hidden, chains, strict=True)):
            self._add(member, chain, widths, head_rate256)

    def _add(self, member: int, chain: Sequence[ConvLayer], widths: Sequence[int], rate256: int) -> None:
        channels, height, width = self.image_shape
        stored, convolutions, head = channels, [], []
        for layer in chain:
            if height == width == 1:
                head.append(self._pixel(member, channels, layer))
            else:
                sides, filters = layer.output_sides(height, width), rounded(layer.filters)
                offsets = self._take(9 * stored * filters, member), self._take(filters, member)
                kind = (layer.filters, layer.padding, layer.pool == 2, layer.rate256)
                convolutions.append(Convolution(height, width, channels, *kind, *sides, stored, filters, *offsets))
                height, width = sides
            channels, stored = layer.filters, rounded(layer.filters)
        features = () if self.planar else (height, width, channels, stored)
        for i, (inputs, outputs) in enumerate(pairwise((channels * height * width, *widths, self.classes))):
            sizes = rounded(stored * height * width if i == 0 else inputs), rounded(outputs)
            offsets = self._take(math.prod(sizes), member), self._take(sizes[1], member)
            rate = rate256 if i < len(widths) else 0
            head.append(Dense(inputs, outputs, *sizes, *offsets, rate, () if i else features, -1))
        self.chains.append(convolutions)
        self.heads.append(head)

    def _pixel(self, member: int, channels: int, layer: ConvLayer) -> Dense:
        """A convolution of one pixel."""
        sizes = rounded(channels), rounded(layer.filters)
        taps, count = self.size, math.prod(sizes)
        self.size += 9 * count
        self.segments.append((taps, self.size, member))
        self.idle += [(taps, taps + 4 * count), (taps + 5 * count, self.size)]
        return Dense(
            channels, layer.filters, *sizes, taps + 4 * count, self._take(sizes[1], member), layer.rate256, (), taps
        )

    def _take(self, count: int, member: int) -> int:
        start = self.size
        self.size += rounded(count)
        self.segments.append((start, self.size, member))
        return start

    @property
    def shared(self) -> bool:
        """Whether all members have the same convolutions, as behind a stem."""
        return len({tuple(layer[:11] for layer in chain) for chain in self.chains}) == 1

    @property
    def launches(self) -> list[list[tuple[int, int]]]:
        """Members and indices of the convolutions that a launch computes: an index at a time, with or without a pool.

        All layers of a launch have few channels, or none: only those of images are few.
        """
        deepest = max(len(chain) for chain in self.chains)
        groups = [
            [(m, i) for m, chain in enumerate(self.chains) if i < len(chain) and chain[i].pool == pool]
            for i in range(deepest)
            for pool in (True, False)
        ]
        return [group for group in groups if group]

    def scratch(self, rows: int) -> int:
        """Float32 numbers that the parts of a launch's weight gradients take, for so many images."""
        sizes = []
        for launch in self.launches:
            layers = [self.chains[m][i] for m, i in launch]
            sizes.append(sum(layer.splits(self.members, rows) * layer.slab for layer in layers))
        return max(sizes, default=0)

    @property
    def parted(self) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
        """The segments of the heads, and those of the convolutions in front of them."""
        firsts = [head[0].weight if head[0].taps < 0 else head[0].taps for head in self.heads]
        heads = [segment for segment in self.segments if segment[0] >= firsts[segment[2]]]
        return heads, [segment for segment in self.segments if segment[0] < firsts[segment[2]]]

    def span(self, member: int) -> slice:
        """Where all of a member's parameters lie in a flat buffer."""
        own = [segment for segment in self.segments if segment[2] == member]
        return slice(own[0][0], own[-1][1])

    def views(self, buffer: Tensor, member: int, first: int = 0) -> list[Tensor]:
        """A member's parameters in a flat buffer, weight and bias of each layer, as strided views.

        In torch's shapes, but for the weight of a dense layer behind a convolution: [out, C, H, W] instead of
        [out, C * H * W].

        Args:
            buffer: of all parameters, or of those from `first` on.
            member: which one.
            first: where the buffer begins.
        """
        arrays = []
        for layer in self.chains[member]:
            sizes = (3, 3, layer.stored_channels, layer.stored_filters)
            weight = buffer[layer.weight - first :][: math.prod(sizes)].view(sizes)
            arrays.append(weight[:, :, : layer.channels, : layer.filters].permute(3, 2, 0, 1))
            arrays.append(buffer[layer.bias - first :][: layer.filters])
        for dense in self.heads[member]:
            arrays += [self._dense_view(buffer, dense, first), buffer[dense.bias - first :][: dense.outputs]]
        return arrays

    def _dense_view(self, buffer: Tensor, dense: Dense, first: int) -> Tensor:
        stored = (dense.stored_outputs, dense.stored_inputs)
        if dense.taps >= 0:
            taps = buffer[dense.taps - first :][: 9 * math.prod(stored)].view(3, 3, *stored)
            return taps[:, :, : dense.outputs, : dense.inputs].permute(2, 3, 0, 1)
        weight = buffer[dense.weight - first :][: math.prod(stored)].view(stored)[: dense.outputs]
        if not dense.features:
            return weight[:, : dense.inputs]
        height, width, channels, wide = dense.features
        image = weight[:, : height * width * wide].view(dense.outputs, height, width, wide)
        return image[..., :channels].permute(0, 3, 1, 2)


class Places:
    """Offsets of a batch's numbers: y of the layers and the images in one buffer, their gradients in another.

    Convolutions come first, then hidden layers: what the backward pass needs of them lies at the same offsets in
    buffers of its own.

    Args:
        layout: of the parameters.
        rows: images of the batch.
        sets: 1 where all members see the same images, else M.
    """

    def __init__(self, layout: Layout, rows: int, sets: int) -> None:
        self.rows, self.sets = rows, sets
        self._at = 0
        self.convolved = [
            [self._take(rows * layer.out_height * layer.out_width * layer.stored_filters) for layer in chain]
            for chain in layout.chains
        ]
        self.convolved_size = self._at
        self.hidden = [[self._take(rows * dense.stored_outputs) for dense in head[:-1]] for head in layout.heads]
        self.hidden_end = self._at
        self.images = self.hidden_end
        # The gradients of the logits follow those of the layers; those of the images, of each member, come last.
        self.forward_size = self.images + sets * rows * layout.pixels
        self.logits_stride = rounded(layout.classes)
        self.logits = self.hidden_end
        self.image_gradients = self.logits + layout.members * rows * self.logits_stride

    def _take(self, count: int) -> int:
        start = self._at
        self._at += count
        return start

    def shapes(self, layout: Layout, dtype: torch.dtype, *, slopes: bool, backward: str) -> dict[str, Piece]:
        """Shape and dtype of every buffer of a batch.

        Args:
            layout: of the parameters.
            dtype: of activations and their gradients.
            slopes: whether the activation's slopes are stored.
            backward: `none`, `weights` or `images`: what gradients are wanted of.
        """
        rows, members = self.rows, layout.members
        shapes: dict[str, Piece] = {
            "values": ((self.forward_size,), dtype),
            "logits": ((members, rows, self.logits_stride), torch.float32),
            "labels": ((self.sets, rows), torch.int64),
            "saved": ((self.convolved_size,), torch.uint8),
        }
        if slopes and backward != "none":
            shapes["slopes"] = ((self.hidden_end,), dtype)
        if backward != "none":
            images = members * rows * layout.pixels if backward == "images" else 0
            shapes["gradients"] = ((self.image_gradients + images,), dtype)
        if backward == "images":
            shapes["wanted"] = ((2, members, rows), torch.int64)
        if backward == "weights":
            shapes["scratch"] = ((layout.scratch(rows),), torch.float32)
        return shapes


def grid(first: Tensor, second: Tensor) -> Tensor:
    """Tiles int32 [T, 3], rows (layer, i, j) for i below first[layer] and j below second[layer], i the fastest."""
    counts = first * second
    layers = torch.repeat_interleave(counts)
    number = torch.arange(len(layers), dtype=torch.int64, device="cpu") - (counts.cumsum(0) - counts)[layers]
    return torch.stack([layers, number % first[layers], number // first[layers]], 1).to(torch.int32)


def total_bytes(shapes: dict[str, Piece]) -> int:
    """Bytes of a batch's buffers, each at a multiple of 256."""
    return sum(-(-math.prod(shape) * dtype.itemsize // 256) * 256 for shape, dtype in shapes.values())


def scratch_bytes(layout: Layout, activation: str, *, precision: str, batch: int) -> int:
    """Bytes of a batch's numbers in training or in evaluation, whichever are more; arguments as of `device_bytes`."""
    rows = evaluation_rows(layout, activation, precision=precision, batch=batch)
    return max(_training_bytes(layout, activation, precision, batch), _evaluation_bytes(layout, activation, rows))


def evaluation_rows(layout: Layout, activation: str, *, precision: str, batch: int) -> int:
    """Most images of a forward pass in evaluation: what fits memory that training takes anyway, or a budget.

    Args:
        layout: of the parameters.
        activation, precision, batch: as of `device_bytes`.
    """
    budget = max(EVALUATION_BYTES, _training_bytes(layout, activation, precision, batch))
    need = _evaluation_bytes(layout, activation, EVALUATION_ROWS)
    fitting = EVALUATION_ROWS * budget // need // UNIT * UNIT
    return max(min(UNIT, EVALUATION_ROWS), min(fitting, EVALUATION_ROWS))


def _training_bytes(layout: Layout, activation: str, precision: str, batch: int) -> int:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return _batch_bytes(layout, activation, batch, dtype, "weights")


def _evaluation_bytes(layout: Layout, activation: str, rows: int) -> int:
    return _batch_bytes(layout, activation, rows, torch.float32, "images")


def _batch_bytes(layout: Layout, activation: str, rows: int, dtype: torch.dtype, backward: str) -> int:
    places = Places(layout, rows, layout.members)
    return total_bytes(places.shapes(layout, dtype, slopes=activation != "relu", backward=backward))


def device_bytes(layout: Layout, activation: str, *, precision: str, batch: int, average: bool = False) -> int:
    """Bytes that a population of this layout takes on a GPU, but for results, orders and tables.

    Args:
        layout: of the parameters.
        activation: as of `Step`.
        precision, batch: of training.
        average: whether it keeps an average of the weights.
    """
    # Values, gradients, two moments and the average; a copy.
    parameters = layout.size * (4 * (4 + average) + 2 * (precision == "bf16"))
    return parameters + scratch_bytes(layout, activation, precision=precision, batch=batch)


def carve(memory: Tensor, shapes: dict[str, Piece]) -> dict[str, Tensor]:
    """The buffers of a batch as views of uint8 memory, one behind the other."""
    buffers, at = {}, 0
    for name, (shape, dtype) in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        buffers[name] = memory[at : at + size].view(dtype).view(shape)
        at += -(-size // 256) * 256
    return buffers
