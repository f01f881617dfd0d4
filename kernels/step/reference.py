"""The training step of a population in plain torch, member by member: the definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dropout import reference as dropout
from ..fgsm import reference as fgsm
from .objectives import objective_gradient
from .pairs import members_of_pairs, pad_pairs, unpad_pairs


class InputGradient(NamedTuple):
    """The result of `Step.input_gradient`: gradients (or signs), the logits on the way, and counts of zeros and NaN."""

    gradient: Tensor
    logits: Tensor
    zero: Tensor | None
    nan: Tensor | None


class Convolution(NamedTuple):
    """A 3x3 convolution and its activation, and whether a 2x2 max-pool and dropout follow."""

    channels: int
    padding: int
    pool: bool
    drops: bool


class ConvLayer(NamedTuple):
    """A convolution of a network's own, its activation, and the max-pool and dropout behind it.

    Args:
        filters: output channels, at least 1.
        kernel, stride: rows and columns of the window, and from one window to the next.
        padding: rows and columns of zeros on each side, less than the kernel.
        pool: side and stride of the max-pool's window, which drops odd rows and columns left over; 0 for none.
        rate256: dropout rate in 256ths.
    """

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    pool: int = 0
    rate256: int = 0

    def output_sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what it makes of an image."""
        sides = ((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in (height, width))
        high, wide = (side // max(self.pool, 1) for side in sides)
        return high, wide


STEMS = {
    "none": (),
    "conv2": (Convolution(32, 0, True, False), Convolution(64, 0, True, False)),
    "conv4": (
        Convolution(32, 1, False, False),
        Convolution(32, 0, True, True),
        Convolution(64, 1, False, False),
        Convolution(64, 0, True, True),
    ),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
}


def parameter_shapes(
    image_shape: tuple[int, int, int],
    classes: int,
    stem: str,
    widths: Sequence[int],
    convolutions: Sequence[ConvLayer] = (),
) -> list[tuple[int, ...]]:
    """Shapes of a member's parameters, weight and bias of each layer; `convolutions` stand in place of the stem."""
    channels, height, width = image_shape
    shapes: list[tuple[int, ...]] = []
    for layer in () if convolutions else STEMS[stem]:
        shapes += [(layer.channels, channels, 3, 3), (layer.channels,)]
        height, width = ((side - 2 + 2 * layer.padding) // (2 if layer.pool else 1) for side in (height, width))
        channels = layer.channels
    for own in convolutions:
        shapes += [(own.filters, channels, own.kernel, own.kernel), (own.filters,)]
        channels, (height, width) = own.filters, own.output_sides(height, width)
    inputs = channels * height * width
    for outputs in (*widths, classes):
        shapes += [(outputs, inputs), (outputs,)]
        inputs = outputs
    return shapes


def chain_of(stem: str, convolutions: Sequence[ConvLayer], stem_rate256: int) -> list[ConvLayer]:
    """A member's convolutions: its own or, where it has none, the stem's."""
    return list(convolutions) or [
        ConvLayer(
            layer.channels, padding=layer.padding, pool=2 * layer.pool, rate256=stem_rate256 if layer.drops else 0
        )
        for layer in STEMS[stem]
    ]


class Step:
    """The definition of `atras.kernels.Step`, by autograd and torch.optim. Arguments and shapes are explained there.

    Args:
        dtype: of all arithmetic, floating point.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        hidden: Sequence[Sequence[int]],
        *,
        stem: str = "none",
        convolutions: Sequence[Sequence[ConvLayer]] | None = None,
        activation: str = "relu",
        batch: int = 128,
        optimizer: str = "adam",
        momentum: float = 0.0,
        label_smoothing: float = 0.0,
        clip: float | None = None,
        average: float | None = None,
        stem_rate256: int = 64,
        head_rate256: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.activate, self.batch, self.dtype = ACTIVATIONS[activation], batch, dtype
        self.head_rate256, self.optimizer, self.momentum = head_rate256, optimizer, momentum
        self.label_smoothing, self.clip, self.average = label_smoothing, clip, average
        own = [()] * len(hidden) if convolutions is None else convolutions
        self.chains = [chain_of(stem, each, stem_rate256) for each in own]
        shapes = [
            parameter_shapes(image_shape, classes, stem, widths, chain)
            for widths, chain in zip(hidden, self.chains, strict=True)
        ]
        self.parameters = [
            [torch.zeros(shape, dtype=dtype, device="cpu", requires_grad=True) for shape in each] for each in shapes
        ]
        self.averages = [[each.detach().clone() for each in own] for own in self.parameters]
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Forget moments and step counts; an average of the weights begins anew with the next step."""
        self.steps = [0] * len(self.parameters)
        self.optimizers = [self._optimizer(parameters) for parameters in self.parameters]

    def _optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, momentum=self.momentum)
        return torch.optim.AdamW(parameters) if self.optimizer == "adamw" else torch.optim.Adam(parameters)

    def set_parameters(self, member: int, arrays: Sequence[Tensor]) -> None:
        """Set a member's parameters, and their average to the same."""
        with torch.no_grad():
            for slots in (self.parameters, self.averages):
                for slot, array in zip(slots[member], arrays, strict=True):
                    slot.copy_(array)

    def get_parameters(self, member: int) -> list[Tensor]:
        """Copies of a member's parameters."""
        return [parameter.detach().clone() for parameter in self.parameters[member]]

    def get_average(self, member: int) -> list[Tensor]:
        """Copies of the average of a member's parameters."""
        return [average.clone() for average in self.averages[member]]

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        order: Tensor,
        *,
        learning_rates: Tensor,
        weight_decays: Tensor | None = None,
        order_of: Tensor | None = None,
        signs: Tensor | None = None,
        epsilon: float | Tensor = 0.0,
        keys: Tensor | None = None,
        first_step: int = 0,
        cotangents: Tensor | None = None,
        batch: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One optimizer step of every member for each batch of its order: mean losses and correct predictions."""
        losses, correct = [], []
        for m in range(len(self.parameters)):
            source, index = self._source(m, images, signs, epsilon), self._order(m, order, order_of)
            own, decay = (each if each is None else each[m] for each in (cotangents, weight_decays))
            steps = []
            for s, i in enumerate(torch.split(index, batch or self.batch)):
                rate = learning_rates[m] if learning_rates.ndim == 1 else learning_rates[m, s]
                for group in self.optimizers[m].param_groups:
                    group["lr"], group["weight_decay"] = float(rate), 0.0 if decay is None else float(decay)
                masks = self._masks(keys, m, first_step + s)
                steps.append(self._step(m, source[i], labels[i % len(labels)], masks, own))
            losses.append(torch.tensor([loss for loss, _ in steps], dtype=torch.float64, device="cpu"))
            correct.append(torch.tensor([count for _, count in steps], dtype=torch.int64, device="cpu"))
        return torch.stack(losses), torch.stack(correct)

    def training_logits(
        self,
        images: Tensor,
        order: Tensor,
        *,
        order_of: Tensor | None = None,
        signs: Tensor | None = None,
        epsilon: float | Tensor = 0.0,
        keys: Tensor | None = None,
        first_step: int = 0,
    ) -> Tensor:
        """Logits [M, n, Y] of a batch with the dropout masks that a training step of it draws."""
        logits = []
        for m in range(len(self.parameters)):
            x = self._source(m, images, signs, epsilon)[self._order(m, order, order_of)]
            logits.append(self._forward(m, x, self._masks(keys, m, first_step)))
        return torch.stack(logits).detach()

    def logits(
        self,
        images: Tensor,
        signs: Tensor | None = None,
        epsilon: float | Tensor = 0.0,
        counts: Tensor | None = None,
        raw: bool = False,
    ) -> Tensor:
        """Evaluation-mode logits [M, N, Y], or of pairs [P, Y]: of the average where there is one, unless `raw`."""
        if counts is not None:
            parts = torch.split(self._pixels(images, None, 0.0), counts.tolist())
            return torch.cat([self._evaluate(m, part, raw).detach() for m, part in enumerate(parts)])
        logits = []
        for m in range(len(self.parameters)):
            own = images[m] if images.ndim == 5 else images
            logits.append(
                self._evaluate(m, self._pixels(own, None if signs is None else signs[m], _of(epsilon, m)), raw)
            )
        return torch.stack(logits).detach()

    def input_gradient(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        objective: str = "odds",
        targets: Tensor | None = None,
        cotangents: Tensor | None = None,
        signs: bool = False,
        direction: int = 1,
        counts: Tensor | None = None,
        raw: bool = False,
    ) -> InputGradient:
        """Gradients of each image's log-odds, or of the objective whose gradient by the logits is `cotangents`."""
        if counts is not None:
            images = pad_pairs(images, counts)
            labels, targets, cotangents = (
                each if each is None else pad_pairs(each, counts) for each in (labels, targets, cotangents)
            )
            kind: dict[str, Any] = {"objective": objective, "targets": targets, "cotangents": cotangents}
            return of_pairs(self.input_gradient(images, labels, raw=raw, **kind), counts)
        gradients, logits = [], []
        for m in range(len(self.parameters)):
            x = self._pixels(images[m] if images.ndim == 5 else images, None, 0.0).clone().requires_grad_()
            z = self._evaluate(m, x, raw)
            own = z.argmax(1) if labels is None else _own(m, labels)
            if cotangents is not None:
                cotangent = cotangents[m].to(self.dtype)
            elif objective == "odds":
                cotangent = _odds_gradient(z.detach(), own)
            else:
                cotangent = objective_gradient(objective, z, own, None if targets is None else _own(m, targets))
            (gradient,) = torch.autograd.grad(z, x, cotangent)
            gradients.append(gradient)
            logits.append(z.detach())
        stacked = torch.stack(gradients)
        nan, zero = fgsm.counts(stacked)
        return InputGradient(fgsm.signs(stacked, direction) if signs else stacked, torch.stack(logits), zero, nan)

    def _step(
        self, member: int, x: Tensor, labels: Tensor, masks: tuple[Tensor, Tensor], cotangents: Tensor | None
    ) -> tuple[float, int]:
        z = self._forward(member, x, masks)
        loss = F.cross_entropy(z, labels)
        if cotangents is None:
            wanted = F.cross_entropy(z, labels, label_smoothing=self.label_smoothing)
            gradients = torch.autograd.grad(wanted, self.parameters[member])
        else:
            gradients = torch.autograd.grad(z, self.parameters[member], cotangents.to(self.dtype))
        for parameter, gradient in zip(self.parameters[member], gradients, strict=True):
            parameter.grad = gradient
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters[member], self.clip)
        with torch.device("cpu"):  # torch 2.11 puts Adam's count of steps on the default device
            self.optimizers[member].step()
        if self.average is not None:
            for average, parameter in zip(self.averages[member], self.parameters[member], strict=True):
                average.lerp_(parameter.detach(), 1 - self.average if self.steps[member] else 1.0)
        self.steps[member] += 1
        return loss.item(), int((z.argmax(1) == labels).sum())

    def _source(self, member: int, images: Tensor, signs: Tensor | None, epsilon: float | Tensor) -> Tensor:
        """The images as pixels and, where there are signs, the member's adversarial copies behind them."""
        source = self._pixels(images, None, 0.0)
        if signs is None:
            return source
        return torch.cat([source, self._pixels(images, signs[member], _of(epsilon, member))])

    def _order(self, member: int, order: Tensor, order_of: Tensor | None) -> Tensor:
        return order.reshape(-1, order.shape[-1])[0 if order_of is None else int(order_of[member])]

    def _masks(self, keys: Tensor | None, member: int, step: int) -> tuple[Tensor, Tensor]:
        """Key and step of a member's dropout."""
        step_tensor = torch.tensor(step, dtype=torch.int64, device="cpu")
        return torch.zeros_like(step_tensor) if keys is None else keys[member], step_tensor

    def _pixels(self, images: Tensor, signs: Tensor | None, epsilon: float) -> Tensor:
        if signs is None:
            return fgsm.to_pixels(images, self.dtype)
        return fgsm.apply_signs(images, signs, epsilon, 0.0, 1.0, self.dtype)

    def _evaluate(self, member: int, x: Tensor, raw: bool) -> Tensor:
        """Evaluation-mode logits of a member's weights, or of their average."""
        averaged = self.average is not None and not raw
        return self._forward(member, x, parameters=self.averages[member] if averaged else None)

    def _forward(
        self,
        member: int,
        x: Tensor,
        masks: tuple[Tensor, Tensor] | None = None,
        parameters: list[Tensor] | None = None,
    ) -> Tensor:
        """Logits; with dropout where `masks`, its key and step, is given."""
        *weights, last, last_bias = self.parameters[member] if parameters is None else parameters
        layers = list(zip(weights[::2], weights[1::2], strict=True))
        chain = self.chains[member]
        for i, layer in enumerate(chain):
            x = self.activate(F.conv2d(x, *layers[i], stride=layer.stride, padding=layer.padding))
            x = F.max_pool2d(x, layer.pool) if layer.pool else x
            x = _drop(x, masks, i, layer.rate256)
        x = x.flatten(1)
        for i in range(len(chain), len(layers)):
            x = _drop(self.activate(F.linear(x, *layers[i])), masks, i, self.head_rate256)
        return F.linear(x, last, last_bias)


def of_pairs(padded: InputGradient, counts: Tensor, tally: bool = True) -> InputGradient:
    """The result for pairs, out of that for as many images of every member as the one with most has."""
    gradient, logits = unpad_pairs(padded.gradient, counts), unpad_pairs(padded.logits, counts)
    if not tally:
        return InputGradient(gradient, logits, None, None)
    members = members_of_pairs(counts, gradient.device)
    zero, nan = torch.zeros(2, len(counts), dtype=torch.int64, device=gradient.device)
    zero.index_add_(0, members, (gradient == 0).flatten(1).sum(1))
    nan.index_add_(0, members, gradient.isnan().flatten(1).sum(1))
    return InputGradient(gradient, logits, zero, nan)


def _own(member: int, numbers: Tensor) -> Tensor:
    """A member's own [B] of labels or targets [B] or [M, B]."""
    return numbers[member] if numbers.ndim == 2 else numbers


def _drop(x: Tensor, masks: tuple[Tensor, Tensor] | None, layer: int, rate256: int) -> Tensor:
    return dropout.dropout(x, *masks, layer, rate256, None) if masks and rate256 else x


def _odds_gradient(z: Tensor, labels: Tensor) -> Tensor:
    """Gradient [B, Y] by the logits of the log-odds against the labels, logsumexp of the other classes less the own."""
    own = F.one_hot(labels, z.shape[-1]).bool()
    others = z.masked_fill(own, -torch.inf)
    shares = (others - others.amax(-1, keepdim=True).clamp(min=torch.finfo(z.dtype).min)).exp()
    total = shares.sum(-1, keepdim=True)
    gradient = torch.where(own, -total, shares) / total.masked_fill(total == 0, 1.0)
    usable = (z < torch.inf) | ~own  # a NaN at the label spoils its row, as one elsewhere does
    return gradient.masked_fill(~usable.all(-1, keepdim=True), torch.nan)


def _of(number: float | Tensor, member: int) -> float:
    """The number of a member, where each may have its own."""
    return float(number[member]) if isinstance(number, Tensor) else number
