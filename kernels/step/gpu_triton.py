"""Op step on a GPU: a few Triton launches over all members make a step, and a CUDA graph makes those one call."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..fgsm import gpu_triton as fgsm
from . import gpu_batch, gpu_gather, gpu_layout, gpu_optimizer, reference
from .gpu_graph import Graphs
from .pairs import pad_pairs, unpad_pairs


class Population:
    """The networks and optimizers of a `Step` in device memory. Arguments are checked there.

    Parameters, gradients and moments are flat float32 buffers. For bf16 the optimizer writes a copy of the parameters
    in that type too, which training reads; evaluation and input gradients are float32 throughout. All scratch memory is
    taken once; training and evaluation share it.

    Args:
        image_shape, classes, hidden, activation, batch, optimizer, momentum, head_rate256, precision: as of `Step`.
        chains: each member's convolutions, its own or the stem's.
        device: a CUDA device, or any where Triton's interpreter runs.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        hidden: Sequence[Sequence[int]],
        *,
        chains: Sequence[Sequence[reference.ConvLayer]],
        activation: str,
        batch: int,
        optimizer: str,
        momentum: float,
        head_rate256: int,
        precision: str,
        device: torch.device,
    ) -> None:
        self.layout = gpu_layout.Layout(image_shape, classes, hidden, chains, head_rate256)
        self.network = gpu_batch.Network(self.layout, activation)
        self.batch, self.optimizer, self.momentum = batch, optimizer, momentum
        self.precision, self.device = precision, device
        self.graphs = Graphs(device)
        self._batches: dict[tuple[int, bool, str, str], gpu_batch.Batch] = {}
        with self._here():
            self._allocate()

    @torch.inference_mode(False)  # what is kept must be writable outside it too
    def _allocate(self) -> None:
        members, size = self.layout.members, self.layout.size
        moments = 2 if self.optimizer == "adam" else 1
        self.parameters, self.gradients = torch.zeros(2, size, dtype=torch.float32, device=self.device)
        self.moments = torch.zeros(moments, size, dtype=torch.float32, device=self.device)
        dtype = gpu_batch.DTYPES[self.precision]
        self.copy = None if dtype == torch.float32 else torch.zeros(size, dtype=dtype, device=self.device)
        self.steps, self.keys, self.row_of = torch.zeros(3, members, dtype=torch.int64, device=self.device)
        self.rates = torch.zeros(members, dtype=torch.float64, device=self.device)
        self.counters = torch.zeros(3, dtype=torch.int64, device=self.device)  # see gpu_gather.Order
        self.tiles = gpu_optimizer.tiles(self.layout.segments).to(self.device)
        scratch = gpu_layout.scratch_bytes(
            self.layout, self.network.activation, precision=self.precision, batch=self.batch
        )
        self.memory = torch.empty(scratch, dtype=torch.uint8, device=self.device)
        self.losses = torch.empty(0, members, dtype=torch.float64, device=self.device)
        self.correct = torch.empty(0, members, dtype=torch.int64, device=self.device)
        self.order = torch.empty(0, dtype=torch.int64, device=self.device)
        self.cotangents: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Of all buffers, tables of tiles aside; the longest order and call so far count."""
        buffers = (self.parameters, self.gradients, self.moments, self.memory, self.order, self.losses, self.correct)
        optional = [buffer for buffer in (self.copy, self.cotangents) if buffer is not None]
        return sum(buffer.nbytes for buffer in (*buffers, *optional))

    @property
    def instructions(self) -> str:
        """The architecture that the kernels are compiled for, such as `sm_90`; `triton interpreter` without a GPU."""
        if self.device.type != "cuda":
            return "triton interpreter"
        return "sm_{}{}".format(*torch.cuda.get_device_capability(self.device))

    def member_steps(self) -> list[int]:
        """Optimizer steps of each member."""
        return [int(count) for count in self.steps.tolist()]

    def set_steps(self, steps: Sequence[int]) -> None:
        """Restore them."""
        self.steps.copy_(torch.tensor(steps, dtype=torch.int64, device="cpu"))

    def reset_optimizer(self) -> None:
        """Forget moments and step counts."""
        self.moments.zero_()
        self.steps.zero_()

    def poison(self) -> None:
        """Fill scratch memory with NaN (and -1)."""
        self.memory.fill_(255)
        for buffer in (self.gradients, self.losses):
            buffer.fill_(torch.nan)
        for buffer in (self.correct, self.order):
            buffer.fill_(-1)

    def set_parameters(self, member: int, arrays: Sequence[Tensor], moment: int) -> None:
        """Set a member's parameters (0) or moments (1, 2)."""
        buffer = self.moments[moment - 1] if moment else self.parameters
        for view, array in zip(self.layout.views(buffer, member), arrays, strict=True):
            view.copy_(array.view(view.shape))
        if moment == 0 and self.copy is not None:
            for view, source in zip(*(self.layout.views(b, member) for b in (self.copy, self.parameters)), strict=True):
                view.copy_(source)

    def get_parameters(self, member: int, shapes: Sequence[tuple[int, ...]], moment: int) -> list[Tensor]:
        """Copies of what `set_parameters` sets, on the CPU."""
        buffer = self.moments[moment - 1] if moment else self.parameters
        views = zip(self.layout.views(buffer, member), shapes, strict=True)
        return [view.cpu().reshape(shape).clone(memory_format=torch.contiguous_format) for view, shape in views]

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        order: Tensor,
        order_of: Tensor,
        signs: Tensor | None,
        epsilon: float,
        learning_rates: Tensor,
        keys: Tensor,
        first_step: int,
        cotangents: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """As `Step.train`; order [K, n], order_of [M]."""
        n, steps = order.shape[1], -(-order.shape[1] // self.batch)
        with self._here():
            own = self._begin(order, order_of, signs, keys, first_step)
            self.rates.copy_(learning_rates)
            if cotangents is not None:
                self._given(n).copy_(cotangents)
            source = gpu_gather.Source(images, signs, epsilon, labels)
            for at in range(0, n, self.batch):
                self._step(source, min(self.batch, n - at), own, cotangents is not None)
            return self.losses[:steps].T.contiguous(), self.correct[:steps].T.contiguous()

    def training_logits(
        self,
        images: Tensor,
        order: Tensor,
        order_of: Tensor,
        signs: Tensor | None,
        epsilon: float,
        keys: Tensor,
        first_step: int,
    ) -> Tensor:
        """As `Step.training_logits`; order [K, n], order_of [M]."""
        rows = order.shape[1]
        if rows == 0:
            return self._new(self.layout.members, 0, self.layout.classes)
        with self._here():
            own = self._begin(order, order_of, signs, keys, first_step)
            batch = self._batch(rows, own, self.precision, "weights")
            self._forward(batch, gpu_gather.Source(images, signs, epsilon))
            return batch.logits[..., : self.layout.classes].clone(memory_format=torch.contiguous_format)

    def _begin(self, order: Tensor, order_of: Tensor, signs: Tensor | None, keys: Tensor, first_step: int) -> bool:
        """Put where the launches read it what a call trains on; whether members have images of their own."""
        n = order.shape[1]
        self._reserve(-(-n // self.batch), order.numel())
        self.order[: order.numel()].copy_(order.reshape(-1))
        self.counters.copy_(torch.tensor([0, first_step, n], dtype=torch.int64, device="cpu"))
        self.row_of.copy_(order_of)
        self.keys.copy_(keys)
        return signs is not None or bool((order_of != order_of[0]).any())

    def logits(self, images: Tensor, signs: Tensor | None, epsilon: float, counts: Tensor | None) -> Tensor:
        """As `Step.logits`; pairs are padded to the member with most, since launches are rectangular."""
        if counts is not None:
            return unpad_pairs(self.logits(pad_pairs(images, counts), None, 0.0, None), counts)
        count = images.shape[-4]
        values = self._new(self.layout.members, count, self.layout.classes)
        source = gpu_gather.Source(images, signs, epsilon)
        with self._here():
            for batch, part in self._chunks(source, count, "none"):
                values[:, part] = batch.forward(self.parameters, self.parameters)[..., : self.layout.classes]
        return values

    def input_gradient(
        self,
        images: Tensor,
        labels: Tensor | None,
        objective: str,
        targets: Tensor | None,
        cotangents: Tensor | None,
        signs: bool,
        direction: int,
        counts: Tensor | None,
    ) -> reference.InputGradient:
        """As `Step.input_gradient`; pairs as in `logits`."""
        if counts is not None:
            images = pad_pairs(images, counts)
            labels, targets, cotangents = (
                each if each is None else pad_pairs(each, counts) for each in (labels, targets, cotangents)
            )
            padded = self.input_gradient(images, labels, objective, targets, cotangents, signs, direction, None)
            return reference.of_pairs(padded, counts)
        members, count = self.layout.members, images.shape[-4]
        out = self._new(members, count, *self.layout.image_shape, dtype=torch.int8 if signs else torch.float32)
        logits = self._new(members, count, self.layout.classes)
        zero, nan, ignored = torch.zeros(3, members, dtype=torch.int64, device=self.device)
        losses = self._new(members)
        with self._here():
            for batch, part in self._chunks(gpu_gather.Source(images), count, "images"):
                logits[:, part] = batch.forward(self.parameters, self.parameters)[..., : self.layout.classes]
                own, aim = (each if each is None else each[..., part].contiguous() for each in (labels, targets))
                if cotangents is not None:
                    batch.take_cotangents(cotangents[:, part])
                elif objective == "odds":
                    batch.loss(own, losses, ignored, odds=True)
                else:
                    batch.objective(objective, own, aim)
                batch.backward_dense(self.parameters, dropped=False)
                gradients = batch.image_gradients(self.parameters).contiguous()
                directions, nans, zeros = fgsm.fgsm(gradients, gradients, 0.0, 0.0, 1.0, direction, None)
                out[:, part] = directions if signs else gradients
                nan += nans
                zero += zeros
        return reference.InputGradient(out, logits, zero, nan)

    def _step(self, source: gpu_gather.Source, rows: int, own: bool, given: bool) -> None:
        batch = self._batch(rows, own, self.precision, "weights")
        addresses = [tensor.data_ptr() if tensor is not None else 0 for tensor in (source[0], source[1], source[3])]
        key = (rows, own, given, *addresses, source.images.shape, source.images.dtype, source.epsilon)
        self.graphs.run(key, lambda: self._launch(batch, source, given))

    def _forward(self, batch: gpu_batch.Batch, source: gpu_gather.Source) -> Tensor:
        """A training step's logits; the weights that it multiplies by are returned."""
        weights = self.parameters if self.copy is None else self.copy
        order = gpu_gather.Order(self.order, self.row_of, self.counters)
        batch.gather(source, order=order, batch=self.batch)
        batch.forward(weights, self.parameters, (self.keys, self.counters[1:2]))
        return weights

    def _launch(self, batch: gpu_batch.Batch, source: gpu_gather.Source, given: bool = False) -> None:
        """One training step: nothing here allocates, synchronizes or depends on a number that changes."""
        weights = self._forward(batch, source)
        labels = batch.labels if batch.places.sets == self.layout.members else batch.labels[0]
        batch.loss(labels, self.losses, self.correct, counter=self.counters)
        if given:
            batch.take_cotangents(self._given(batch.rows))
        batch.backward_dense(weights, dropped=True)
        batch.weight_gradients(weights, self.gradients)
        arguments = (self.tiles, self.parameters, self.gradients, self.moments[0])
        if self.optimizer == "adam":
            gpu_optimizer.launch_adam(*arguments, self.moments[1], self.steps, self.rates, copy=self.copy, aligned=True)
        else:
            gpu_optimizer.launch_sgd(*arguments, self.rates, momentum=self.momentum, copy=self.copy, aligned=True)
        gpu_gather.launch_bump(self.counters, self.steps)

    def _chunks(self, source: gpu_gather.Source, count: int, backward: str) -> Iterator[tuple[gpu_batch.Batch, slice]]:
        """Batches for evaluation, their images gathered, and which of the images they are."""
        own = source.images.ndim == 5 or source.signs is not None
        for start in range(0, count, gpu_layout.EVALUATION_ROWS):
            rows = min(gpu_layout.EVALUATION_ROWS, count - start)
            batch = self._batch(rows, own, "fp32", backward)
            batch.gather(source, start=start)
            yield batch, slice(start, start + rows)

    @torch.inference_mode(False)
    def _batch(self, rows: int, own: bool, precision: str, backward: str) -> gpu_batch.Batch:
        key = (rows, own, precision, backward)
        if key not in self._batches:
            self._batches[key] = gpu_batch.Batch(
                self.network, self.memory, rows=rows, own=own, precision=precision, backward=backward
            )
        return self._batches[key]

    @torch.inference_mode(False)
    def _reserve(self, steps: int, order: int) -> None:
        """Room for a call's order and results; recordings know addresses, so they go when it grows."""
        if len(self.losses) < steps:
            shape = (max(64, steps), self.layout.members)
            self.losses = torch.empty(shape, dtype=torch.float64, device=self.device)
            self.correct = torch.empty(shape, dtype=torch.int64, device=self.device)
            self.graphs.forget()
        if len(self.order) < order:
            self.order = torch.empty(order, dtype=torch.int64, device=self.device)
            self.graphs.forget()

    @torch.inference_mode(False)
    def _given(self, rows: int) -> Tensor:
        """Where the launches find the cotangents of a batch, [M, rows, Y]: taken when a call first has any."""
        shape = (self.layout.members, rows, self.layout.classes)
        if self.cotangents is None:
            self.cotangents = self._new(self.layout.members * self.batch * self.layout.classes)
        return self.cotangents[: math.prod(shape)].view(shape)

    def _new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory for a result, whatever torch's default dtype and device are."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _here(self) -> contextlib.AbstractContextManager[object]:
        """Launches go to the current device: make it this one."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()
