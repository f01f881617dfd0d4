"""Engine `stack`: M members as [M, ...] tensors, run by the code of one network under vmap.

Members of one structure and different widths share a stack: narrower layers are padded with zeros, and stay zero. A
padded unit has zero weights in and out and a zero activation (`Network.logits` masks the one activation that is not 0
at 0), so its gradients are exactly zero, and Adam moves a zero gradient's parameter by exactly zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from atras.errors import InputError
from atras.networks import (
    Candidate,
    Cotangent,
    Dropout,
    Network,
    Parameters,
    Place,
    Shape,
    Spec,
    StepResult,
    dropout_key,
    widest,
)

from .average import Average
from .engine import AVERAGE, Engine, definite, derivative
from .stacked_optimizer import StackedOptimizer


class StackEngine(Engine):
    """All members in every launch. See `Engine` for arguments and shapes.

    Raises:
        InputError: if the members differ in depth.
    """

    name = "stack"
    pads = True
    one_pass = True

    @classmethod
    def alike(cls, spec: Spec, candidate: Candidate, kind: str = "cpu") -> Hashable:  # noqa: ARG003 (of Engine)
        places = Network(spec, candidate).hidden
        return candidate.structure, spec.stem_of(candidate), tuple(map(_unpadded, places))

    def _build(self) -> None:
        if refused := self.refusal(self.spec, [member.candidate for member in self.members]):
            raise InputError(f"engine (={self.name}): {refused}")
        candidates = [member.candidate for member in self.members]
        depths = {candidate.depth for candidate in candidates}
        if len(depths) != 1:
            raise InputError(f"stack: expected members of one depth, got depths {sorted(depths)}; group them by depth")
        if len({candidate.structure for candidate in candidates}) != 1:
            names = ", ".join(sorted({candidate.name for candidate in candidates})[:3])
            raise InputError(
                f"stack: expected members that differ in widths alone, got {names}; group them by structure"
            )
        self.network = Network(self.spec, widest(candidates))
        self._refuse_padding()
        self.widths = torch.tensor([c.widths for c in candidates], dtype=torch.int32, device=self.device)
        self.parameters: Parameters = {
            name: torch.zeros(len(self.members), *shape, dtype=self.dtype, device=self.device)
            for name, shape in self.network.parameter_shapes.items()
        }
        self._start_average()
        for index, (member, network) in enumerate(zip(self.members, self.networks, strict=True)):
            self._set_parameters(index, network.initial_parameters(member.seed, self.dtype), 0)

    def _refuse_padding(self) -> None:
        """Refuse widths that differ where nothing may be padded."""
        for place, *own in zip(self.network.hidden, *(network.hidden for network in self.networks), strict=True):
            if any(_unpadded(other) != _unpadded(place) for other in own):
                what = "which has dropout" if place.layer.takes_padding else "which takes no padding"
                raise InputError(f"stack: expected equal filters in {place.name}, {what}, got several; use engine loop")

    def _set_parameters(self, index: int, values: Parameters, moment: int) -> None:
        """Put one member's parameters, at their natural widths, into its slot; the padding is left alone."""
        for name, array in values.items():
            self._put(index, name, array, moment)

    def _start_average(self) -> None:
        self.average = Average(self.parameters, self.protocol.average) if self.averages else None

    def _put(self, index: int, name: str, values: Tensor, moment: int) -> None:
        """Put one parameter into its slot; its average is then the same."""
        self._slot(index, name, moment).copy_(values)
        if self.average is not None and moment == 0:
            self._slot(index, name, AVERAGE).copy_(values)

    def _get_parameters(self, index: int, moment: int) -> Parameters:
        return {name: self._slot(index, name, moment).clone() for name in self.parameters}

    def _slot(self, index: int, name: str, moment: int) -> Tensor:
        natural = self.networks[index].parameter_shapes[name]
        corner: tuple[int | slice, ...] = (index, *(slice(size) for size in natural))
        if moment == 0:
            return self.parameters[name].detach()[corner]
        if moment == AVERAGE:
            return (self.parameters if self.average is None else self.average.values)[name].detach()[corner]
        moments = self.optimizer.first if moment == 1 else self.optimizer.second
        return moments[list(self.parameters).index(name)][corner]

    def _begin_phase(self, phase: str) -> None:
        keys = [dropout_key(member.seed, member.candidate.name, phase) for member in self.members]
        self.keys = torch.tensor(keys, dtype=torch.int64, device=self.device)
        self._counter = torch.zeros((), dtype=torch.int64, device=self.device)
        recipe = self.protocol
        self.optimizer = StackedOptimizer(
            list(self.parameters.values()), recipe.optimizer, self.learning_rates, recipe.momentum, self.weight_decays,
            recipe.clip_gradient,
        )  # fmt: skip

    @property
    def steps(self) -> int:
        return self.optimizer.steps

    @steps.setter
    def steps(self, count: int) -> None:
        self.optimizer.steps = count
        self._counter = torch.full_like(self._counter, count)

    def _step(self, images: Tensor, labels: Tensor, cotangent: Cotangent) -> StepResult:
        parameters = {name: values.detach().requires_grad_() for name, values in self.parameters.items()}
        smoothing = self.protocol.label_smoothing if cotangent is None else 0.0

        def one(p: Parameters, widths: Tensor, key: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            out = self.network.logits(p, x, widths=widths, masks=Dropout(key, self._counter))
            loss = F.cross_entropy(out, y)
            objective = F.cross_entropy(out, y, label_smoothing=smoothing) if smoothing else loss
            return loss, objective, (out.argmax(-1) == y).sum(), out

        in_dims = (0, 0, 0, _member_axis(images, 4), _member_axis(labels, 1))
        losses, objectives, correct, out = torch.vmap(one, in_dims=in_dims)(
            parameters, self.widths, self.keys, images, labels
        )
        given = None if cotangent is None else definite(cotangent, out.detach())
        self._update(gradients_of(objectives.sum() if given is None else out, given, parameters, images))
        return StepResult(losses.detach(), correct)

    def _update(self, gradients: Sequence[Tensor | None]) -> None:
        """The optimizer's step of all members, from the gradients of their stacked parameters."""
        self.optimizer.step(gradients, self.multiplier(self.steps))
        self._counter = self._counter + 1
        if self.average is not None:
            self.average.update(self.parameters, self.steps)

    @property
    def evaluated(self) -> Parameters:
        """The stacked parameters that evaluation reads."""
        return self.average.values if self.average is not None and self.reads_average else self.parameters

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        return self._forward(images)

    def _gradient(self, images: Tensor, cotangent: Cotangent) -> tuple[Tensor, Tensor]:
        own = images.expand(len(self.members), *images.shape[-4:]).detach().requires_grad_()
        out = self._forward(own)
        (gradient,) = torch.autograd.grad(out, own, derivative(cotangent, out.detach()))
        return gradient, out.detach()

    def _forward(self, images: Tensor) -> Tensor:
        def one(p: Parameters, widths: Tensor, x: Tensor) -> Tensor:
            return self.network.logits(p, x, widths=widths)

        return torch.vmap(one, in_dims=(0, 0, _member_axis(images, 4)))(self.evaluated, self.widths, images)


def gradients_of(
    objective: Tensor, given: Tensor | None, parameters: Parameters, images: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of an objective by the parameters; those by images that require one stand in their `grad` then, as
    after `backward`.

    Args:
        objective: [], or logits [M, B, Y].
        given: d(objective) / d(logits) of the latter.
        parameters: that require a gradient.
        images: [M, B, C, H, W] or [B, C, H, W].
    """
    leaves = [images] if images.requires_grad else []
    found = torch.autograd.grad(objective, [*parameters.values(), *leaves], given, allow_unused=True)
    if leaves:
        images.grad = found[-1]
    return found[: len(parameters)]


def _unpadded(place: Place) -> tuple[Shape, ...]:
    """The shapes at a place that must be alike in a stack.

    Padded channels would shift the masks of dropout, and change what some layers make of the rest.
    """
    dropped = (place.outputs,) if place.rate256 and len(place.outputs) == 3 else ()
    return dropped if place.layer.takes_padding else (place.inputs, place.outputs)


def _member_axis(values: Tensor, ndim: int) -> int | None:
    """0 where the tensor has the member axis in front of its `ndim` own ones, None where all members share it."""
    return 0 if values.ndim == ndim + 1 else None
