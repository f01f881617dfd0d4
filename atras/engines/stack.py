"""Engine `stack`: M members as [M, ...] tensors, run by the code of one candidate under vmap.

Members of one depth and different widths share a stack: narrower layers are padded with zeros, and stay zero. A padded
unit has zero weights in and out and a zero activation (`model.logits` masks the one activation that is not 0 at 0), so
its gradients are exactly zero, and Adam moves a zero gradient's parameter by exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from atras.errors import InputError
from atras.networks.network import Dropout, Parameters, initial_parameters, logits, parameter_shapes
from atras.networks.randomness import dropout_key

from .engine import Engine, StepResult
from .stacked_optimizer import StackedOptimizer


class StackEngine(Engine):
    """All members in every launch. See `Engine` for arguments and shapes.

    Raises:
        InputError: if the members differ in depth.
    """

    name = "stack"

    def build(self) -> None:
        depths = {member.candidate.depth for member in self.members}
        if len(depths) != 1:
            raise InputError(f"stack: expected members of one depth, got depths {sorted(depths)}; group them by depth")
        hidden = torch.tensor([member.candidate.hidden for member in self.members], dtype=torch.int32)
        self.widths = hidden.to(self.device)
        padded = tuple(hidden.amax(0).tolist())
        self.parameters: Parameters = {
            name: torch.zeros(len(self.members), *shape, dtype=self.dtype, device=self.device)
            for name, shape in parameter_shapes(self.spec, padded).items()
        }
        for index, member in enumerate(self.members):
            self.pour_in(index, initial_parameters(self.spec, member.candidate, member.seed, self.dtype))

    def pour_in(self, index: int, values: Parameters, moment: int = 0) -> None:
        """Put one member's parameters, at their natural widths, into its slot; the padding is left alone."""
        for name, array in values.items():
            self._slot(index, name, moment).copy_(array)

    def pour_out(self, index: int, moment: int = 0) -> Parameters:
        return {name: self._slot(index, name, moment).clone() for name in self.parameters}

    def _slot(self, index: int, name: str, moment: int) -> Tensor:
        natural = parameter_shapes(self.spec, self.members[index].candidate.hidden)[name]
        corner: tuple[int | slice, ...] = (index, *(slice(size) for size in natural))
        if moment == 0:
            return self.parameters[name].detach()[corner]
        moments = self.optimizer.first if moment == 1 else self.optimizer.second
        return moments[list(self.parameters).index(name)][corner]

    def begin_phase(self, phase: str) -> None:
        keys = [dropout_key(member.seed, member.candidate, phase) for member in self.members]
        self.keys = torch.tensor(keys, dtype=torch.int64, device=self.device)
        self._counter = torch.zeros((), dtype=torch.int64, device=self.device)
        self.optimizer = StackedOptimizer(
            list(self.parameters.values()), self.protocol.optimizer, self.learning_rates, self.protocol.momentum
        )

    @property
    def steps(self) -> int:
        return self.optimizer.steps

    @steps.setter
    def steps(self, count: int) -> None:
        self.optimizer.steps = count
        self._counter = torch.full_like(self._counter, count)

    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        parameters = {name: values.detach().requires_grad_() for name, values in self.parameters.items()}

        def one(p: Parameters, widths: Tensor, key: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            out = logits(self.spec, p, x, widths=widths, masks=Dropout(key, self._counter))
            return F.cross_entropy(out, y), (out.argmax(-1) == y).sum()

        in_dims = (0, 0, 0, _member_axis(images, 4), _member_axis(labels, 1))
        losses, correct = torch.vmap(one, in_dims=in_dims)(parameters, self.widths, self.keys, images, labels)
        gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
        self.optimizer.step(gradients)
        self._counter = self._counter + 1
        return StepResult(losses.detach(), correct)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        return self._forward(images)

    def input_gradient(self, images: Tensor, choose_labels: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        own = images.expand(len(self.members), *images.shape[-4:]).detach().requires_grad_()
        out = self._forward(own)
        labels = choose_labels(out.detach()).expand(out.shape[:2])
        loss = F.cross_entropy(out.flatten(0, 1), labels.flatten(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, own)
        return gradient, out.detach()

    def _forward(self, images: Tensor) -> Tensor:
        def one(p: Parameters, widths: Tensor, x: Tensor) -> Tensor:
            return logits(self.spec, p, x, widths=widths)

        return torch.vmap(one, in_dims=(0, 0, _member_axis(images, 4)))(self.parameters, self.widths, images)


def _member_axis(values: Tensor, ndim: int) -> int | None:
    """0 where the tensor has the member axis in front of its `ndim` own ones, None where all members share it."""
    return 0 if values.ndim == ndim + 1 else None
