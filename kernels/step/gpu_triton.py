"""Op step on a GPU: a few Triton launches over all members make a step, and a CUDA graph makes those one call."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checks, gpu_batch, gpu_evaluation, gpu_gather, gpu_layout, gpu_optimizer, reference
from .gpu_beside import Beside
from .gpu_graph import Graphs
from .pairs import pad_pairs, unpad_pairs


class Kind(NamedTuple):
    """What the launches of a step depend on.

    Args:
        size: images of a whole batch.
        own: whether each member has its own images.
        given: whether cotangents stand in place of the loss's.
        decays: whether there is weight decay.
        moves: whether the images lie elsewhere in every call, as those of a single batch do: what is recorded then
            begins behind their gathering.
    """

    size: int
    own: bool
    given: bool = False
    decays: bool = False
    moves: bool = False


class Population:
    """The networks and optimizers of a `Step` in device memory. Arguments are checked there.

    Parameters, gradients and moments are flat float32 buffers. For bf16 the optimizer writes a copy of the parameters
    in that type too, which training reads; evaluation and input gradients take the float32 ones, multiplied as
    `gpu_evaluation.PRECISIONS` says. All scratch memory is taken once; training and evaluation share it.

    Args:
        image_shape, classes, hidden, activation, batch, optimizer, momentum, label_smoothing, clip, average,
            head_rate256, precision: as of `Step`.
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
        label_smoothing: float,
        clip: float | None,
        average: float | None,
        head_rate256: int,
        precision: str,
        device: torch.device,
    ) -> None:
        self.layout = gpu_layout.Layout(image_shape, classes, hidden, chains, head_rate256)
        self.network = gpu_batch.Network(self.layout, activation)
        self.batch, self.optimizer, self.momentum = batch, optimizer, momentum
        self.label_smoothing, self.clip, self.decay = label_smoothing, clip, average
        self.precision, self.device = precision, device
        self.graphs = Graphs(device)
        self._batches: dict[tuple[int, bool, str, str], gpu_batch.Batch] = {}
        with self._here():
            self._allocate()

    @torch.inference_mode(False)  # what is kept must be writable outside it too
    def _allocate(self) -> None:
        members, size = self.layout.members, self.layout.size
        moments = 1 if self.optimizer == "sgd" else 2
        self.parameters, self.gradients = torch.zeros(2, size, dtype=torch.float32, device=self.device)
        self.moments = torch.zeros(moments, size, dtype=torch.float32, device=self.device)
        dtype = gpu_batch.DTYPES[self.precision]
        self.copy = None if dtype == torch.float32 else torch.zeros(size, dtype=dtype, device=self.device)
        self.steps, self.keys, self.row_of = torch.zeros(3, members, dtype=torch.int64, device=self.device)
        self.average = None if self.decay is None else torch.zeros(size, dtype=torch.float32, device=self.device)
        self.decays = torch.zeros(members, dtype=torch.float64, device=self.device)
        self.epsilons = torch.zeros(members, dtype=torch.float64, device=self.device)
        self.counters = torch.zeros(3, dtype=torch.int64, device=self.device)  # see gpu_gather.Order
        table = gpu_optimizer.tiles(self.layout.segments)
        self.tiles, self.ends = table.to(self.device), gpu_optimizer.ends_of(table, members).to(self.device)
        self.head_tiles, self.convolution_tiles = (
            gpu_optimizer.tiles(segments).to(self.device) for segments in self.layout.parted
        )
        self.beside = Beside(self.device)
        self.squares = torch.empty(0 if self.clip is None else len(table), dtype=torch.float32, device=self.device)
        self.scales = torch.empty(members, dtype=torch.float32, device=self.device)
        scratch = gpu_layout.scratch_bytes(
            self.layout, self.network.activation, precision=self.precision, batch=self.batch
        )
        self.memory = torch.empty(scratch, dtype=torch.uint8, device=self.device)
        self.evaluation = gpu_evaluation.Evaluation(
            self.network,
            self.memory,
            rows=gpu_layout.evaluation_rows(
                self.layout, self.network.activation, precision=self.precision, batch=self.batch
            ),
            precision=self.precision,
            graphs=self.graphs,
        )
        self.losses, self.rates = torch.empty(2, 0, members, dtype=torch.float64, device=self.device)
        self.correct = torch.empty(0, members, dtype=torch.int64, device=self.device)
        self.order = torch.empty(0, dtype=torch.int64, device=self.device)
        self.cotangents: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Of all buffers, tables of tiles aside; the longest order and call so far count."""
        buffers = (self.parameters, self.gradients, self.moments, self.memory, self.order, self.losses, self.correct)
        optional = [buffer for buffer in (self.copy, self.average, self.cotangents) if buffer is not None]
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
        for buffer in (self.gradients, self.losses, self.rates, self.squares, self.scales, self.epsilons):
            buffer.fill_(torch.nan)
        for start, end in self.layout.idle:
            self.gradients[start:end] = 0
        for buffer in (self.correct, self.order):
            buffer.fill_(-1)

    def set_parameters(self, member: int, arrays: Sequence[Tensor], moment: int) -> None:
        """Set a member's parameters (0), moments or average, as of `Step`."""
        place = self.layout.span(member)
        own = torch.zeros(place.stop - place.start, dtype=torch.float32, device="cpu")  # in one piece to the device
        for view, array in zip(self.layout.views(own, member, place.start), arrays, strict=True):
            view.copy_(array.view(view.shape))
        self._slot(moment)[place].copy_(own)
        if moment == 0 and self.copy is not None:
            self.copy[place].copy_(self.parameters[place])

    def get_parameters(self, member: int, shapes: Sequence[tuple[int, ...]], moment: int) -> list[Tensor]:
        """Copies of what `set_parameters` sets, on the CPU."""
        place = self.layout.span(member)
        views = self.layout.views(self._slot(moment)[place].cpu(), member, place.start)  # in one piece to the host
        return [
            view.reshape(shape).clone(memory_format=torch.contiguous_format)
            for view, shape in zip(views, shapes, strict=True)
        ]

    def _slot(self, moment: int) -> Tensor:
        average = [] if self.average is None else [self.average]
        return [self.parameters, *self.moments, *average][moment]

    def _evaluated(self, raw: bool) -> Tensor:
        """What is evaluated: the average where there is one, unless the weights are asked for."""
        return self.parameters if raw or self.average is None else self.average

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        order: Tensor,
        order_of: Tensor,
        signs: Tensor | None,
        epsilon: float | Tensor,
        learning_rates: Tensor,
        weight_decays: Tensor | None,
        keys: Tensor,
        first_step: int,
        cotangents: Tensor | None,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """As `Step.train`; order [K, n], order_of [M], learning_rates [M, S]."""
        n, steps = order.shape[1], -(-order.shape[1] // size)
        with self._here():
            own = self._begin(order, order_of, signs, keys, first_step, steps)
            self.rates[:steps].copy_(learning_rates.T, non_blocking=True)
            if weight_decays is not None:
                self.decays.copy_(weight_decays, non_blocking=True)
            if cotangents is not None:
                self._given(n).copy_(cotangents)
            source = gpu_gather.Source(images, signs, self._take_epsilons(epsilon), labels)
            kind = Kind(size, own, cotangents is not None, weight_decays is not None, moves=n <= size)
            for at in range(0, n, size):
                self._step(source, min(size, n - at), kind)
            # Copies: the transpose of a single step, or member, is contiguous as it lies, where the next call writes.
            dense = torch.contiguous_format
            return self.losses[:steps].T.clone(memory_format=dense), self.correct[:steps].T.clone(memory_format=dense)

    def training_logits(
        self,
        images: Tensor,
        order: Tensor,
        order_of: Tensor,
        signs: Tensor | None,
        epsilon: float | Tensor,
        keys: Tensor,
        first_step: int,
    ) -> Tensor:
        """As `Step.training_logits`; order [K, n], order_of [M]."""
        rows = order.shape[1]
        if rows == 0:
            return self._new(self.layout.members, 0, self.layout.classes)
        with self._here():
            own = self._begin(order, order_of, signs, keys, first_step, 1)
            batch = self._batch(rows, own, self.precision, "weights")
            self._gather(batch, gpu_gather.Source(images, signs, self._take_epsilons(epsilon)), self.batch)
            self._forward(batch)
            return batch.logits[..., : self.layout.classes].clone(memory_format=torch.contiguous_format)

    def _take_epsilons(self, epsilon: float | Tensor) -> Tensor:
        """Where the launches find the strengths of the copies: the same place in every call."""
        if isinstance(epsilon, Tensor):
            self.epsilons.copy_(epsilon, non_blocking=True)
        else:
            self.epsilons.fill_(epsilon)
        return self.epsilons

    def _begin(
        self, order: Tensor, order_of: Tensor, signs: Tensor | None, keys: Tensor, first_step: int, steps: int
    ) -> bool:
        """Put where the launches read it what a call trains on; whether members have images of their own."""
        n = order.shape[1]
        self._reserve(steps, order.numel())
        counters = torch.tensor([0, first_step, n], dtype=torch.int64, device="cpu")
        given = (order.reshape(-1), counters, order_of, keys)
        for place, values in zip(
            (self.order[: order.numel()], self.counters, self.row_of, self.keys), given, strict=True
        ):
            place.copy_(values, non_blocking=not values.is_pinned())  # pageable memory is read before the call is over
        return signs is not None or not checks.alike(order_of)

    def logits(
        self, images: Tensor, signs: Tensor | None, epsilon: float | Tensor, counts: Tensor | None, raw: bool
    ) -> Tensor:
        """As `Step.logits`; pairs are padded to the member with most, since launches are rectangular."""
        if counts is not None:
            return unpad_pairs(self.logits(pad_pairs(images, counts), None, 0.0, None, raw), counts)
        with self._here():
            source = gpu_gather.Source(images, signs, self._take_epsilons(epsilon))
            return self.evaluation.logits(self._evaluated(raw), source)

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
        raw: bool,
        tally: bool,
    ) -> reference.InputGradient:
        """As `Step.input_gradient`; pairs as in `logits`."""
        if counts is not None:
            images = pad_pairs(images, counts)
            labels, targets, cotangents = (
                each if each is None else pad_pairs(each, counts) for each in (labels, targets, cotangents)
            )
            how = signs, direction, None, raw, False  # what fills up is not counted
            padded = self.input_gradient(images, labels, objective, targets, cotangents, *how)
            return reference.of_pairs(padded, counts, tally)
        aim, signed = gpu_evaluation.Aim(objective, labels, targets, cotangents), direction if signs else None
        with self._here():
            return self.evaluation.input_gradient(self._evaluated(raw), images, aim, direction=signed, tally=tally)

    def _step(self, source: gpu_gather.Source, rows: int, kind: Kind) -> None:
        batch = self._batch(rows, kind.own, self.precision, "weights")
        if kind.moves:
            self._gather(batch, source, kind.size)
            self.graphs.run((rows, kind), lambda: self._launch(batch, None, kind))
            return
        addresses = [tensor.data_ptr() if tensor is not None else 0 for tensor in (source[0], source[1], source[3])]
        key = (rows, kind, *addresses, source.images.shape, source.images.dtype)
        self.graphs.run(key, lambda: self._launch(batch, source, kind))

    def _gather(self, batch: gpu_batch.Batch, source: gpu_gather.Source, size: int) -> None:
        """The images of the next batch."""
        order = gpu_gather.Order(self.order, self.row_of, self.counters)
        batch.gather(source, order=order, batch=size)

    def _forward(self, batch: gpu_batch.Batch) -> Tensor:
        """A training step's logits; the weights that it multiplies by are returned."""
        weights = self.parameters if self.copy is None else self.copy
        batch.forward(weights, self.parameters, (self.keys, self.counters[1:2]))
        return weights

    def _launch(self, batch: gpu_batch.Batch, source: gpu_gather.Source | None, kind: Kind) -> None:
        """One training step: nothing here allocates, synchronizes or depends on a number that changes.

        Args:
            batch: where.
            source: of the images; None where they have been gathered.
            kind: of the step.
        """
        if source is not None:
            self._gather(batch, source, kind.size)
        weights = self._forward(batch)
        labels = batch.labels if batch.places.sets == self.layout.members else batch.labels[0]
        batch.loss(labels, self.losses, self.correct, counter=self.counters, smoothing=self.label_smoothing)
        if kind.given:
            batch.take_cotangents(self._given(batch.rows))
        batch.backward_dense(weights, dropped=True)
        if len(self.convolution_tiles):
            # The heads' gradients and update take memory's time, the convolutions' gradients the processors'.
            self.beside.start(lambda: self._heads(batch, kind))
            batch.convolution_gradients(weights, self.gradients)
            if self.clip is None:
                self._update(kind.decays, self.convolution_tiles)
            self.beside.join()
        else:
            self._heads(batch, kind)
        if self.clip is not None:
            self._update(kind.decays, self.tiles)
        gpu_gather.launch_bump(self.counters, self.steps)

    def _heads(self, batch: gpu_batch.Batch, kind: Kind) -> None:
        """Gradients of the heads, and their update, but where gradients are clipped: by the length of all together."""
        batch.dense_weight_gradients(self.gradients)
        if self.clip is None:
            self._update(kind.decays, self.head_tiles)

    def _update(self, decays: bool, tiles: Tensor) -> None:
        """The optimizer's step out of the gradients, of the parameters in a table of tiles."""
        if self.clip is not None:
            gpu_optimizer.launch_scales(
                self.tiles, self.ends, self.gradients, self.squares, self.scales, longest=self.clip, aligned=True
            )
        recipe = gpu_optimizer.Recipe(
            self.decays if decays else None, self.optimizer == "adamw", None if self.clip is None else self.scales,
            self.average, 0.0 if self.decay is None else 1 - self.decay,
        )  # fmt: skip
        tensors, numbers = (tiles, self.parameters, self.gradients, self.moments[0]), (self.steps, self.rates)
        common: dict[str, Any] = {"counter": self.counters, "recipe": recipe, "copy": self.copy, "aligned": True}
        if self.optimizer == "sgd":
            gpu_optimizer.launch_sgd(*tensors, *numbers, momentum=self.momentum, **common)
        else:
            gpu_optimizer.launch_adam(*tensors, self.moments[1], *numbers, **common)

    def _batch(self, rows: int, own: bool, precision: str, backward: str) -> gpu_batch.Batch:
        key = (rows, own, precision, backward)
        if key not in self._batches:
            with torch.inference_mode(False):
                self._batches[key] = gpu_batch.Batch(
                    self.network, self.memory, rows=rows, own=own, precision=precision, backward=backward
                )
        return self._batches[key]

    @torch.inference_mode(False)
    def _reserve(self, steps: int, order: int) -> None:
        """Room for a call's order and results; recordings know addresses, so they go when it grows.

        Twice what is asked for: with adversarial copies the second training takes orders of twice as many images.
        """
        if len(self.losses) < steps:
            shape = (max(64, 2 * steps), self.layout.members)
            self.losses, self.rates = torch.empty(2, *shape, dtype=torch.float64, device=self.device)
            self.correct = torch.empty(shape, dtype=torch.int64, device=self.device)
            self.graphs.forget()
        if len(self.order) < order:
            self.order = torch.empty(2 * order, dtype=torch.int64, device=self.device)
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
