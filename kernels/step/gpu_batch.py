"""One batch through all networks: the launches of its forward and backward pass over buffers that lie fixed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import gpu_convolution, gpu_dense, gpu_gather, gpu_layout, gpu_loss

DTYPES = {"fp32": torch.float32, "tf32x3": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
"""Of operands, by precision."""
Masks = tuple[Tensor, Tensor]
"""Dropout keys int64 [M] and step int64 [1]."""


class Network(NamedTuple):
    """The constants of all batches."""

    layout: gpu_layout.Layout
    activation: str


class Batch:
    """Buffers and launches for batches of one size; the networks' numbers are read from flat buffers.

    Args:
        network: layout, activation and dropout.
        memory: uint8, all scratch; what lies in it is lost.
        rows: images.
        own: whether each member has its own images.
        precision: `fp32`, `tf32x3` (three products of tf32 for nearly fp32), `tf32` or `bf16`.
        backward: `none`, `weights` or `images`: what gradients are wanted of.
    """

    def __init__(
        self, network: Network, memory: Tensor, *, rows: int, own: bool, precision: str, backward: str
    ) -> None:
        self.network, self.rows, self.precision, self.backward = network, rows, precision, backward
        layout = network.layout
        self.places = gpu_layout.Places(layout, rows, layout.members if own else 1)
        self.shapes = shapes(network, rows=rows, own=own, precision=precision, backward=backward)
        self._buffers = gpu_layout.carve(memory, self.shapes)
        self.values, self.logits, self.labels = (self._buffers[name] for name in ("values", "logits", "labels"))
        self._gradients = self._buffers.get("gradients", self.values)
        self.wanted: Sequence[Tensor] = tuple(self._buffers["wanted"]) if "wanted" in self._buffers else ()
        """Labels and targets of input gradients, int64 [2, M, rows]."""
        self._saved, self._slopes = self._buffers["saved"], self._buffers.get("slopes")
        self._convolve = [self._work(launch, memory.device) for launch in layout.launches]
        self._make_tables(memory.device)

    def gather(self, source: gpu_gather.Source, **options: object) -> None:
        """Take the batch's images, and labels where the source has them; `options` as of `gpu_gather.launch_gather`."""
        layout = self.network.layout
        gpu_gather.launch_gather(
            source,
            self.values[self.places.images :],
            self.labels,
            image_shape=layout.image_shape,
            planar=layout.planar,
            stored=layout.pixels,
            **options,  # type: ignore[arg-type]
        )

    def forward(self, parameters: Tensor, biases: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits float32 [M, rows, stored classes].

        Args:
            parameters: flat, of the dtype of the precision.
            biases: the flat float32 parameters.
            masks: of dropout; None for evaluation.
        """
        for work in self._convolve:
            gpu_convolution.forward(
                work, self.values, parameters, biases, self.values, self._saved, self._slopes, masks=masks
            )
        for table in self._hidden:
            gpu_dense.launch_forward(
                table, self.values, parameters, biases, self.values, self.rows,
                activation=self.network.activation, slopes=self._slopes, masks=masks, precision=self.precision,
            )  # fmt: skip
        gpu_dense.launch_forward(
            self._last, self.values, parameters, biases, self.logits, self.rows, precision=self.precision
        )
        return self.logits

    def loss(
        self,
        labels: Tensor | None,
        losses: Tensor,
        correct: Tensor,
        *,
        counter: Tensor | None = None,
        odds: bool = False,
        smoothing: float = 0.0,
    ) -> None:
        """Losses, correct predictions and the gradient of the logits; arguments as of `gpu_loss.launch`."""
        kind = {"classes": self.network.layout.classes, "counter": counter, "odds": odds, "smoothing": smoothing}
        gpu_loss.launch(self.logits, labels, losses, correct, self._logit_gradients(), **kind)  # type: ignore[arg-type]

    def objective(self, objective: str, labels: Tensor | None, targets: Tensor | None) -> None:
        """The gradient of the logits of another objective than the log-odds; see `gpu_loss.launch_objective`."""
        classes, gradients = self.network.layout.classes, self._logit_gradients()
        gpu_loss.launch_objective(objective, self.logits, labels, targets, gradients, classes=classes)

    def take_cotangents(self, cotangents: Tensor) -> None:
        """Another objective's gradient of the logits, float32 [M, at most rows, Y], in place of the loss's."""
        found, classes, gradients = cotangents.shape[1], self.network.layout.classes, self._logit_gradients()
        gradients[..., classes:].zero_()
        gradients[:, found:, :classes].zero_()
        gradients[:, :found, :classes].copy_(cotangents)

    def backward_dense(self, parameters: Tensor, *, dropped: bool) -> None:
        """From the gradient of the logits to those before each hidden layer's activation, and of what the heads see."""
        relu = self.network.activation == "relu"
        for table in self._back:
            gpu_dense.launch_input_gradient(
                table, self._gradients, parameters, self._gradients, self.rows,
                x=self.values if relu else None, slopes=self._slopes, dropped=dropped, precision=self.precision,
            )  # fmt: skip
        if self._first is not None:
            gpu_dense.launch_input_gradient(
                self._first, self._gradients, parameters, self._gradients, self.rows, precision=self.precision
            )

    def dense_weight_gradients(self, gradients: Tensor) -> None:
        """Gradients of the heads' parameters, into a flat float32 buffer like theirs; after `backward_dense`."""
        gpu_dense.launch_weight_gradient(
            self._weights, self._gradients, self.values, gradients, gradients, self.rows, precision=self.precision
        )

    def convolution_gradients(self, parameters: Tensor, gradients: Tensor) -> None:
        """Gradients of the convolutions' parameters likewise; it reads and writes nothing that the heads' need."""
        for work in reversed(self._convolve):
            dy = (work, self._gradients, self._saved, self._slopes)
            gpu_convolution.weight_gradient(
                *dy, self.values, gradients, gradients, self._buffers["scratch"], dropped=True
            )
            if work.launch.inner:
                gpu_convolution.input_gradient(*dy, parameters, self._gradients, dropped=True)

    def differentiate_images(self, parameters: Tensor) -> None:
        """From the gradient of what the heads see to those of the images; after `backward_dense`."""
        for work in reversed(self._convolve):
            gpu_convolution.input_gradient(
                work, self._gradients, self._saved, self._slopes, parameters, self._gradients, dropped=False
            )

    @property
    def image_gradients(self) -> Tensor:
        """Gradients of the images [M, rows, C, H, W], a view: what `differentiate_images` computes."""
        layout, members = self.network.layout, self.network.layout.members
        channels, height, width = layout.image_shape
        gradients = self._gradients[self.places.image_gradients :].view(members, self.rows, layout.pixels)
        gradients = gradients[..., : channels * height * width]
        if layout.planar:
            return gradients.view(members, self.rows, *layout.image_shape)
        return gradients.view(members, self.rows, height, width, channels).movedim(-1, 2)

    def _logit_gradients(self) -> Tensor:
        """[M, rows, stored classes]."""
        return self._gradients[self.places.logits :][: self.logits.numel()].view(self.logits.shape)

    def _work(self, launch: list[tuple[int, int]], device: torch.device) -> gpu_convolution.Work:
        """A launch over convolutions, each named by its member and its place in the member's chain."""
        layout = self.network.layout
        return gpu_convolution.work(
            [self._site(member, index) for member, index in launch],
            members=layout.members, images=self.rows, activation=self.network.activation,
            slopes=self._slopes is not None, precision=self.precision, device=device, shared=layout.shared,
        )  # fmt: skip

    def _site(self, member: int, index: int) -> gpu_convolution.Site:
        layer, places = self.network.layout.chains[member][index], self.places.convolved[member]
        if index:
            x = dx = places[index - 1]
            stride = layer.height * layer.width * layer.stored_channels
        else:
            (x, dx), stride = self._images(member), self.network.layout.pixels
        return gpu_convolution.Site(layer, x, places[index], dx, stride, member, index)

    def _images(self, member: int) -> tuple[int, int]:
        """Offsets of a member's images and of their gradients."""
        places, seen = self.places, member * self.rows * self.network.layout.pixels
        return places.images + (seen if places.sets > 1 else 0), places.image_gradients + seen

    def _make_tables(self, device: torch.device) -> None:
        heads = self.network.layout.heads
        deepest = max(len(head) for head in heads)
        last = [(m, len(head) - 1) for m, head in enumerate(heads)]
        levels = [[(m, j) for m, head in enumerate(heads) if j < len(head) - 1] for j in range(deepest - 1)]
        self._hidden = [self._table(level, "outputs", device) for level in levels]
        self._last = self._table(last, "outputs", device)
        if self.backward != "none":
            back = [[pair for pair in last if pair[1]], *reversed(levels[1:])]
            self._back = [self._table(pairs, "inputs", device) for pairs in back if pairs]
            seen = [(m, 0) for m, chain in enumerate(self.network.layout.chains) if chain or self.backward == "images"]
            self._first = self._table(seen, "inputs", device) if seen else None
        if self.backward == "weights":
            everything = [(m, j) for m, head in enumerate(heads) for j in range(len(head))]
            self._weights = self._table(everything, "weights", device)

    def _table(self, pairs: Iterable[tuple[int, int]], kind: str, device: torch.device) -> gpu_dense.Tables:
        layers = [self._layer(member, level) for member, level in pairs]
        if kind == "weights":
            tiles = gpu_dense.weight_tiles(layers)
        else:
            tiles = (gpu_dense.output_tiles if kind == "outputs" else gpu_dense.input_tiles)(layers, self.rows)
        return gpu_dense.tables(layers, tiles, device)

    def _layer(self, member: int, level: int) -> gpu_dense.Layer:
        """Member's dense layer of a level, as a row of the table."""
        layout, places, rows = self.network.layout, self.places, self.rows
        head, hidden, chain = layout.heads[member], places.hidden[member], layout.chains[member]
        layer = head[level]
        if level:
            x = dx = hidden[level - 1]
        elif chain:
            x = dx = places.convolved[member][-1]
        else:
            x, dx = self._images(member)
        logits = member * rows * places.logits_stride
        y, dz = (hidden[level],) * 2 if level < len(hidden) else (logits, places.logits + logits)
        return gpu_dense.Layer(
            x=x, weight=layer.weight, bias=layer.bias, y=y, dx=dx, dz=dz,
            x_stride=layer.stored_inputs, weight_stride=layer.stored_inputs, y_stride=layer.stored_outputs,
            inputs=layer.stored_inputs, outputs=layer.outputs, stored=layer.stored_outputs,
            member=member, dropout=len(chain) + level, rate256=layer.rate256,
            x_rate256=head[level - 1].rate256 if level else 0,
        )  # fmt: skip


def shapes(network: Network, *, rows: int, own: bool, precision: str, backward: str) -> dict[str, gpu_layout.Piece]:
    """The buffers of such a batch; arguments as of `Batch`."""
    layout = network.layout
    places = gpu_layout.Places(layout, rows, layout.members if own else 1)
    return places.shapes(layout, DTYPES[precision], slopes=network.activation != "relu", backward=backward)
