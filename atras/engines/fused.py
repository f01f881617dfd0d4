"""Engine `fused`: whole training steps in C++ on the CPU, in Triton on a GPU; members of any depth share a group."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from atras import gpu
from atras.errors import InputError
from atras.kernels import ConvLayer, Step, backends
from atras.networks import (
    STEMS,
    Candidate,
    Conv,
    Cotangent,
    Dense,
    Network,
    Objective,
    Parameters,
    Spec,
    StepResult,
    dropout_key,
)

from .engine import AVERAGE, Engine, definite
from .epoch import Epoch

CPU = torch.device("cpu")


def why_not(device: torch.device) -> str:
    """Why the engine cannot run on a device; empty where it can."""
    if device.type != "cuda":
        return backends.missing(backends.compiled(device), device)
    missing = backends.missing(backends.compiled(device), device)
    return missing or backends.miscompiled(device) or gpu.kernel_trouble(device)


def why_slow() -> str:
    """Why the engine, where it runs, is slower than plain torch on this processor; empty where it is not."""
    if why_not(torch.device("cpu")) or Step.best_instructions() != "portable":
        return ""
    return "without AVX2 its kernels are slower than torch's"


def has_bf16(device: torch.device = CPU) -> bool:
    """Whether this processor or GPU multiplies bf16 numbers, and the kernels for that are there."""
    return backends.bf16(device).there


def convolutions_of(network: Network) -> list[ConvLayer]:
    """All convolutions of a network, the stem's too, as op `step` takes them."""
    convolutions = []
    for place in network.hidden:
        if type(layer := place.layer) is Conv:
            numbers = (layer.filters, layer.kernel, layer.stride, layer.padding, layer.pool)
            convolutions.append(ConvLayer(*numbers, rate256=place.rate256))
    return convolutions


def own_convolutions(network: Network) -> list[ConvLayer]:
    """All convolutions of a network as op `step` takes them; none where a stem that it knows has all of them."""
    own = any(type(layer) is Conv for layer in network.candidate.layers)
    if not own and network.spec.stem_name in STEMS:
        return []
    return convolutions_of(network)


def known_stem(networks: Iterable[Network]) -> str:
    """The stem that op `step` knows by its name, and that stands before those networks whose convolutions it has not
    been given."""
    without = [network for network in networks if not own_convolutions(network)]
    return next((network.spec.stem_name for network in without if network.stem), "none")


class FusedEngine(Engine):
    """Members that are stepped, evaluated and attacked by op `step`. See `Engine` for arguments and shapes.

    Raises:
        InputError: if the kernels for the device are missing, or the precision is fp64.
    """

    name = "fused"
    any_depths = True
    precisions = ("fp32", "tf32", "bf16")

    @classmethod
    def refusal(cls, spec: Spec, candidates: Sequence[Candidate], kind: str = "cpu") -> str:
        if refused := super().refusal(spec, candidates, kind):
            return refused
        if spec.activation not in Step.activations:
            return f"it has the activations {', '.join(Step.activations)}, not {spec.activation}"
        for layer in spec.stem_layers:
            if type(layer) is not Conv:
                return f"it has stems of convolutions alone, not {layer}"
        return next(filter(None, (_refusal(spec, candidate, kind) for candidate in candidates)), "")

    @classmethod
    def alike(cls, spec: Spec, candidate: Candidate, kind: str = "cpu") -> Hashable:
        # The op has one stem for all members without convolutions of their own; on a GPU all have some, or none has.
        network = Network(spec, candidate)
        if own_convolutions(network):
            return spec.stem_name if kind == "cpu" else ConvLayer
        return spec.stem_name if network.stem else "none"

    def _build(self) -> None:
        if refused := self.refusal(self.spec, [member.candidate for member in self.members], self.device.type):
            raise InputError(f"engine (=fused): {refused}; use --engine auto, loop or stack")
        if reason := why_not(self.device):
            raise InputError(f"engine (=fused): {reason}")
        if self.protocol.precision == "fp64":
            raise InputError("precision (=fp64): engine fused computes in fp32 or less; use engine loop or stack")
        if self.protocol.precision == "bf16" and not has_bf16(self.device):
            raise InputError("precision (=bf16): this processor or GPU has no bf16; use --precision fp32")
        best = "bf16" if backends.bf16(self.device).faster else "fp32"
        convolutions = [own_convolutions(network) for network in self.networks]
        self._known_places: dict[int, Tensor] = {}
        self._op = Step(
            self.spec.image_shape,
            self.spec.classes,
            [hidden_widths(member.candidate) for member in self.members],
            stem=known_stem(self.networks),
            convolutions=convolutions if any(convolutions) else None,
            activation=self.spec.activation,
            batch=self.protocol.step_images,
            threads=torch.get_num_threads(),
            optimizer=self.protocol.optimizer,
            momentum=self.protocol.momentum,
            label_smoothing=self.protocol.label_smoothing,
            clip=self.protocol.clip_gradient,
            average=self.protocol.average or None,
            stem_rate256=max((layer.rate256 for layer in self.spec.stem_layers), default=0),
            head_rate256=self.spec.head_rate256,
            precision=best if self.protocol.precision == "auto" else self.protocol.precision,
            device=self.device,
        )
        for index, (member, network) in enumerate(zip(self.members, self.networks, strict=True)):
            self._set_parameters(index, network.initial_parameters(member.seed, self.dtype), 0)

    def _set_parameters(self, index: int, values: Parameters, moment: int) -> None:
        self._op.set_parameters(index, list(values.values()), self._slot(moment))

    def _get_parameters(self, index: int, moment: int) -> Parameters:
        return dict(
            zip(self.networks[index].parameter_shapes, self._op.get_parameters(index, self._slot(moment)), strict=True)
        )

    def _slot(self, moment: int) -> int:
        """Where the op has a kind of tensors."""
        return self._op.slots - 1 if moment == AVERAGE else moment

    @property
    def steps(self) -> int:
        return self._steps

    @steps.setter
    def steps(self, count: int) -> None:
        self._steps = count
        self._op.set_steps([count] * len(self.members))

    def _begin_phase(self, phase: str) -> None:
        keys = [dropout_key(member.seed, member.candidate.name, phase) for member in self.members]
        self._keys = torch.tensor(keys, dtype=torch.int64)
        decays = torch.tensor(self.weight_decays, dtype=torch.float64)
        self._decays = decays if decays.any() else None
        self._steps = 0
        self._op.reset_optimizer()

    def _step(self, images: Tensor, labels: Tensor, cotangent: Cotangent) -> StepResult:
        members, size = len(self.members), labels.shape[-1]
        own = images.ndim == 5 or labels.ndim == 2
        if own:  # one long list of images, of which each member's order names its own
            images = images.expand(members, *images.shape[-4:]).flatten(0, 1)
            labels = labels.expand(members, size).flatten()
        orders = self._places(len(labels)).view(-1, size)
        rows = torch.arange(members) if own else torch.zeros(members, dtype=torch.int64)
        losses, correct = self._train(Epoch(images, labels, orders, rows, None, 0.0), size, cotangent)
        return StepResult(losses[:, 0], correct[:, 0])

    def _places(self, count: int) -> Tensor:
        """int64 [count], from 0 on: always the same tensor, which the op need not look at again."""
        if count not in self._known_places:
            self._known_places[count] = torch.arange(count, device=self.device)
        return self._known_places[count]

    def _epoch(self, work: Epoch) -> StepResult:
        if work.batch_step is not None:  # what it trains on comes from the network of that very step
            return super()._epoch(work)
        return StepResult(*self._train(work, self.protocol.batch_size))

    def _train(self, work: Epoch, size: int, cotangent: Cotangent = None) -> tuple[Tensor, Tensor]:
        """Losses float64 and correct predictions int64 [M, steps] of steps on so many images each."""
        images, labels, orders = work.images.contiguous(), work.labels.contiguous(), work.orders.contiguous()
        shared = {
            "order_of": work.order_of, "signs": work.signs, "epsilon": work.epsilon, "keys": self._keys,
            "first_step": self._steps,
        }  # fmt: skip
        cotangents = None
        if cotangent is not None:
            cotangents = definite(cotangent, self._op.training_logits(images, orders, **shared)).contiguous()
        losses, correct = self._op.train(
            images, labels, orders, learning_rates=self.rates(-(-orders.shape[1] // size)),
            weight_decays=self._decays, cotangents=cotangents, batch=size, **shared,
        )  # fmt: skip
        self._steps += losses.shape[1]
        return losses, correct

    def _logits(self, images: Tensor) -> Tensor:
        return self._op.logits(images.contiguous(), raw=not self.reads_average)

    def _logits_of_pairs(self, images: Tensor, counts: Tensor) -> Tensor:
        return self._op.logits(images.contiguous(), counts=counts, raw=not self.reads_average)

    def _gradient(self, images: Tensor, cotangent: Cotangent) -> tuple[Tensor, Tensor]:
        return self._gradient_of_pairs(images, cotangent, None)

    def _gradient_of_pairs(self, images: Tensor, cotangent: Cotangent, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        images = images.contiguous()
        rows = (len(self.members), images.shape[-4]) if counts is None else (len(images),)
        common: dict[str, Any] = {"counts": counts, "raw": not self.reads_average}
        if callable(cotangent) and not isinstance(cotangent, Objective):
            cotangent = definite(cotangent, self._op.logits(images, **common))
        common["tally"] = False
        if cotangent is None:
            result = self._op.input_gradient(images, **common)
        elif isinstance(cotangent, Objective):
            labels, targets = _of_rows(cotangent.labels, rows), cotangent.targets
            targets = targets if targets is None else _of_rows(targets, rows)
            if targets is not None and targets.ndim != labels.ndim:
                labels, targets = (each.expand(rows).contiguous() for each in (labels, targets))
            result = self._op.input_gradient(images, labels, objective=cotangent.kind, targets=targets, **common)
        elif cotangent.is_floating_point():
            result = self._op.input_gradient(images, cotangents=cotangent.contiguous(), **common)
        else:
            result = self._op.input_gradient(images, _of_rows(cotangent, rows), **common)
        return result.gradient, result.logits


def _of_rows(labels: Tensor, rows: tuple[int, ...]) -> Tensor:
    """Labels as op `step` takes them, int64 of the rows, or [B] where all members have the same: it knows those of a
    data set again and does not look at them any more."""
    labels = labels.expand(rows)
    return (labels[0] if len(rows) == 2 and labels.stride(0) == 0 else labels).contiguous()


def hidden_widths(candidate: Candidate) -> list[int]:
    """Units of a candidate's own dense layers."""
    return [layer.units for layer in candidate.layers if type(layer) is Dense]


def _refusal(spec: Spec, candidate: Candidate, kind: str) -> str:
    """Why a candidate cannot be computed behind a stem of convolutions on a kind of device; empty where it can."""
    for layer in candidate.layers:
        if type(layer) not in (Conv, Dense):
            return f"it has convolutions and after them dense layers, not {layer}"
    network = Network(spec, candidate)
    convolutions = own_convolutions(network)
    if not convolutions:
        channels = spec.image_shape[0]
        if network.stem and channels > Step.most_channels:
            return f"in front of a stem it takes images of at most {Step.most_channels} channels, not {channels}"
        return ""
    return Step.why_no_convolutions(spec.image_shape, convolutions, kind)
