"""Evaluation and input gradients of a population on a GPU: a block of images at a time, replayed as CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..fgsm import gpu_triton as fgsm
from . import gpu_batch, gpu_gather, reference
from .gpu_graph import Graphs

PRECISIONS = {"fp32": "fp32", "tf32": "tf32x3", "bf16": "tf32x3"}
"""How evaluation and input gradients multiply, by the precision of training."""


class Aim(NamedTuple):
    """What is differentiated; see `Step.input_gradient`."""

    objective: str
    labels: Tensor | None = None
    targets: Tensor | None = None
    cotangents: Tensor | None = None

    @property
    def kind(self) -> tuple[str, bool, bool]:
        """What its launches depend on."""
        return "given" if self.cotangents is not None else self.objective, self.labels is None, self.targets is None


class Evaluation:
    """A population's passes without updates.

    Images, labels and cotangents are copied to where the recorded launches find them, so that they may lie anywhere.

    Args:
        network: layout and activation.
        memory: uint8, all scratch; what lies in it is lost.
        rows: most images of a block.
        precision: of training; `PRECISIONS` says what follows from it.
        graphs: what records and replays the launches.
    """

    def __init__(
        self, network: gpu_batch.Network, memory: Tensor, *, rows: int, precision: str, graphs: Graphs
    ) -> None:
        self.rows, self.precision, self.graphs = rows, PRECISIONS[precision], graphs
        self._network, self._memory = network, memory
        self._members, self._classes = network.layout.members, network.layout.classes
        # Losses and predictions, which the kernel writes and nobody reads.
        self._losses = self._new(self._members)
        self._correct = self._new(self._members, dtype=torch.int64)
        self._blocks: dict[tuple[int, bool, str], gpu_batch.Batch] = {}

    def logits(self, weights: Tensor, source: gpu_gather.Source) -> Tensor:
        """Float32 [M, N, Y] of all the source's images, by flat float32 weights."""
        values = self._new(self._members, source.images.shape[-4], self._classes)
        for block, part in self._parts(source, "none"):
            self._run(block, weights, None)
            values[:, part] = block.logits[:, : part.stop - part.start, : self._classes]
        return values

    def input_gradient(
        self, weights: Tensor, images: Tensor, aim: Aim, *, direction: int | None, tally: bool
    ) -> reference.InputGradient:
        """As `Step.input_gradient`, by flat float32 weights; with a direction its signs, without the gradient."""
        members, count = self._members, images.shape[-4]
        dtype = torch.float32 if direction is None else torch.int8
        out = self._new(members, count, *self._network.layout.image_shape, dtype=dtype)
        logits = self._new(members, count, self._classes)
        zero, nan = torch.zeros(2, members, dtype=torch.int64, device=self._memory.device)
        for block, part in self._parts(gpu_gather.Source(images), "images"):
            found = part.stop - part.start
            self._take(block, aim, part)
            self._run(block, weights, aim)
            logits[:, part] = block.logits[:, :found, : self._classes]
            gradients = block.image_gradients[:, :found]
            if direction is None:
                out[:, part] = gradients
            if direction is not None or tally:
                gradients = gradients.contiguous()
                directions, nans, zeros = fgsm.fgsm(gradients, gradients, 0.0, 0.0, 1.0, direction or 1, None)
                nan += nans
                zero += zeros
            if direction is not None:
                out[:, part] = directions
        return reference.InputGradient(out, logits, zero if tally else None, nan if tally else None)

    def _parts(self, source: gpu_gather.Source, backward: str) -> Iterator[tuple[gpu_batch.Batch, slice]]:
        """Blocks with the images gathered, and which of the images they begin with."""
        own, count = source.images.ndim == 5 or source.signs is not None, source.images.shape[-4]
        for start in range(0, count, self.rows):
            found = min(self.rows, count - start)
            block = self._block(min(block_rows(found), self.rows), own, backward)
            block.gather(source, start=start)
            yield block, slice(start, start + found)

    def _take(self, block: gpu_batch.Batch, aim: Aim, part: slice) -> None:
        """Put what is aimed at where the launches find it; of images that only fill the block, anything valid."""
        found = part.stop - part.start
        if aim.cotangents is not None:
            block.take_cotangents(aim.cotangents[:, part])
        for place, wanted in zip(block.wanted, (aim.labels, aim.targets), strict=True):
            if wanted is not None:
                place[:, :found] = wanted[..., part]
                place[:, found:] = 0

    def _run(self, block: gpu_batch.Batch, weights: Tensor, aim: Aim | None) -> None:
        kind = None if aim is None else aim.kind
        key = ("evaluation", block.rows, block.places.sets, block.backward, kind, weights.data_ptr())
        self.graphs.run(key, lambda: self._launch(block, weights, aim))

    def _launch(self, block: gpu_batch.Batch, weights: Tensor, aim: Aim | None) -> None:
        """The logits and, with an aim, the gradient, of what `_take` left; nothing here allocates or synchronizes."""
        block.forward(weights, weights)
        if aim is None:
            return
        labels, targets = (
            place if given is not None else None
            for place, given in zip(block.wanted, (aim.labels, aim.targets), strict=True)
        )
        if aim.cotangents is None:
            if aim.objective == "odds":
                block.loss(labels, self._losses, self._correct, odds=True)
            else:
                block.objective(aim.objective, labels, targets)
        block.backward_dense(weights, dropped=False)
        block.differentiate_images(weights)

    @torch.inference_mode(False)
    def _block(self, rows: int, own: bool, backward: str) -> gpu_batch.Batch:
        key = (rows, own, backward)
        if key not in self._blocks:
            self._blocks[key] = gpu_batch.Batch(
                self._network, self._memory, rows=rows, own=own, precision=self.precision, backward=backward
            )
        return self._blocks[key]

    def _new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory for a result, whatever torch's default dtype and device are."""
        return torch.empty(shape, dtype=dtype, device=self._memory.device)


def block_rows(count: int) -> int:
    """Images of a block for so many: one of a few sizes, so that few kinds of launches are compiled and recorded."""
    unit = max(1, triton.next_power_of_2(count) // 8)
    return -(-count // unit) * unit
