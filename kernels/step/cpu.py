"""Op step on the CPU: the C++ extension behind the interface that the GPU's `Population` has too."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends
from ..fgsm import cpu as fgsm
from . import objectives, reference

STEM_CODES = {"none": 0, "conv2": 2, "conv4": 4}


class Population:
    """The networks and optimizers of a `Step` in C++. Arguments, all of them on the CPU, are checked there.

    Args:
        image_shape, classes, hidden, stem, convolutions, activation, batch, optimizer, momentum,
            label_smoothing, clip, average, stem_rate256, head_rate256, precision, threads, instructions: as of `Step`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        hidden: Sequence[Sequence[int]],
        *,
        stem: str,
        convolutions: Sequence[Sequence[reference.ConvLayer]],
        activation: str,
        batch: int,
        optimizer: str,
        momentum: float,
        label_smoothing: float,
        clip: float | None,
        average: float | None,
        stem_rate256: int,
        head_rate256: int,
        precision: str,
        threads: int,
        instructions: str,
    ) -> None:
        self.classes, self.batch, self.members = classes, batch, len(hidden)
        extension = backends.cpu_extension()
        kind = list(reference.ACTIVATIONS).index(activation)
        rates = (stem_rate256 if stem == "conv4" else 0, head_rate256)
        # No limit is 0 there. One of 0 leaves nothing of any gradient, as does the least that there is.
        longest = 0.0 if clip is None else max(clip, sys.float_info.min)
        recipe = (label_smoothing, longest, -1.0 if average is None else average)
        numbers = (optimizer != "sgd", optimizer == "adamw", momentum, *recipe, precision == "bf16")
        spec = extension.make_spec(*image_shape, classes, STEM_CODES[stem], kind, batch, *rates, *numbers)
        chains = [[list(layer) for layer in own] for own in convolutions]
        self._step = extension.Step(spec, list(map(list, hidden)), chains, threads, instructions)

    @property
    def bytes(self) -> int:
        """Memory of parameters, moments, averages and scratch."""
        return int(self._step.bytes())

    @property
    def instructions(self) -> str:
        """The instruction set in use."""
        return str(self._step.instructions())

    def member_steps(self) -> list[int]:
        """Optimizer steps of each member."""
        return [self._step.steps(member) for member in range(self.members)]

    def set_steps(self, steps: Sequence[int]) -> None:
        """Restore them."""
        for member, count in enumerate(steps):
            self._step.set_steps(member, count)

    def reset_optimizer(self) -> None:
        """Forget moments and step counts."""
        self._step.reset_optimizer()

    def poison(self) -> None:
        """Fill scratch memory with NaN."""
        self._step.poison()

    def set_parameters(self, member: int, arrays: Sequence[Tensor], moment: int) -> None:
        """Set a member's parameters (0), moments or average, as of `Step`."""
        for i, array in enumerate(arrays):
            self._step.copy_array(member, i, moment, array.data_ptr(), True)

    def get_parameters(self, member: int, shapes: Sequence[tuple[int, ...]], moment: int) -> list[Tensor]:
        """Copies of what `set_parameters` sets."""
        arrays = [_empty(*shape) for shape in shapes]
        for i, array in enumerate(arrays):
            self._step.copy_array(member, i, moment, array.data_ptr(), False)
        return arrays

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
        batch: int,
    ) -> tuple[Tensor, Tensor]:
        """As `Step.train`; order [K, n], order_of [M], learning_rates [M, S]."""
        rows, rates = order_of.to(torch.int32), learning_rates.to(torch.float64).contiguous()
        decays = None if weight_decays is None else weight_decays.to(torch.float64)
        losses = _empty(self.members, -(-order.shape[1] // batch), dtype=torch.float64)
        correct = _empty(*losses.shape, dtype=torch.int64)
        epsilons, orders = fgsm.each(epsilon, self.members), _orders(order, rows, keys, first_step, batch)
        source = _source(images, signs, epsilons)
        numbers = (rates.data_ptr(), _address(decays), losses.data_ptr(), correct.data_ptr())
        self._step.train(source, labels.data_ptr(), orders, *numbers, _address(cotangents))
        return losses, correct

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
        rows = order_of.to(torch.int32)
        values = _empty(self.members, order.shape[1], self.classes)
        orders = _orders(order, rows, keys, first_step, self.batch)
        epsilons = fgsm.each(epsilon, self.members)
        self._step.training_logits(_source(images, signs, epsilons), orders, values.data_ptr())
        return values

    def logits(
        self, images: Tensor, signs: Tensor | None, epsilon: float | Tensor, counts: Tensor | None, raw: bool
    ) -> Tensor:
        """As `Step.logits`."""
        values, epsilons = _empty(*self._rows(images, counts), self.classes), fgsm.each(epsilon, self.members)
        self._step.logits(_source(images, signs, epsilons, counts), raw, values.data_ptr())
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
        raw: bool,
        tally: bool,  # noqa: ARG002 (it counts on the way)
    ) -> reference.InputGradient:
        """As `Step.input_gradient`."""
        rows = self._rows(images, counts)
        out = _empty(*rows, *images.shape[-3:], dtype=torch.int8 if signs else torch.float32)
        logits = _empty(*rows, self.classes)
        zero, nan = _empty(2, self.members, dtype=torch.int64)
        own = labels is not None and labels.ndim == len(rows)
        aim = (_address(labels), own, objectives.OBJECTIVES.index(objective), _address(targets), _address(cotangents))
        outputs = (logits.data_ptr(), *((0, out.data_ptr()) if signs else (out.data_ptr(), 0)))
        left_alone = (zero.data_ptr(), nan.data_ptr())
        source = _source(images, None, None, counts)
        self._step.attack(source, *aim, *outputs, direction, raw, *left_alone)
        return reference.InputGradient(out, logits, zero, nan)

    def _rows(self, images: Tensor, counts: Tensor | None) -> tuple[int, ...]:
        """Axes of a result in front of its own: (M, N), or (P,) of pairs."""
        return (self.members, images.shape[-4]) if counts is None else (images.shape[0],)


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory for a result, whatever torch's default dtype and device are."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _orders(order: Tensor, order_of: Tensor, keys: Tensor, first_step: int, batch: int) -> object:
    """The extension's view of an order and its dropout: pointers, which the caller keeps alive."""
    make = backends.cpu_extension().make_orders
    return make(order.data_ptr(), order_of.data_ptr(), order.shape[1], keys.data_ptr(), first_step, batch)


def _source(images: Tensor, signs: Tensor | None, epsilons: Tensor | None, counts: Tensor | None = None) -> object:
    """The extension's view of images: pointers, which the caller keeps alive."""
    copies, own = (_address(signs), _address(epsilons)), images.ndim == 5
    make = backends.cpu_extension().make_images
    return make(images.data_ptr(), images.dtype == torch.uint8, images.shape[-4], *copies, own, _address(counts))
