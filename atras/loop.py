"""Engine `loop`: one member at a time in plain torch, with torch's own optimizers. The oracle of every other engine."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .engine import Engine, StepResult
from .errors import InputError
from .model import Dropout, Parameters, initial_parameters, logits
from .randomness import dropout_key


class LoopEngine(Engine):
    """A single member; its tensors still carry the member axis (M = 1) outside. See `Engine`.

    Raises:
        InputError: if there is not exactly one member.
    """

    name = "loop"

    def build(self) -> None:
        if len(self.members) != 1:
            raise InputError(f"loop: expected one member, got {len(self.members)}; make an engine for each")
        (self.member,) = self.members
        initial = initial_parameters(self.spec, self.member.candidate, self.member.seed, self.dtype)
        self.parameters: Parameters = {
            name: _fast_layout(values.to(self.device)).requires_grad_() for name, values in initial.items()
        }

    def parameters_of(self, index: int) -> Parameters:
        del index  # there is one member
        return {name: values.detach().clone() for name, values in self.parameters.items()}

    def begin_phase(self, phase: str) -> None:
        key = dropout_key(self.member.seed, self.member.candidate, phase)
        self.key = torch.tensor(key, dtype=torch.int64, device=self.device)
        self.steps = torch.zeros((), dtype=torch.int64, device=self.device)
        parameters, (rate,) = list(self.parameters.values()), self.learning_rates
        self.optimizer: torch.optim.Optimizer
        if self.protocol.optimizer == "adam":
            self.optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
        else:
            self.optimizer = torch.optim.SGD(parameters, lr=rate, momentum=self.protocol.momentum)

    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        x, y = _only(images, 4), _only(labels, 1)
        out = logits(self.spec, self.parameters, x, masks=Dropout(self.key, self.steps))
        loss = F.cross_entropy(out, y)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.steps = self.steps + 1
        return StepResult(loss.detach()[None], (out.argmax(-1) == y).sum()[None])

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        return logits(self.spec, self.parameters, _only(images, 4))[None]

    def input_gradient(self, images: Tensor, choose_labels: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        x = _only(images, 4).detach().requires_grad_()
        fixed = {name: values.detach() for name, values in self.parameters.items()}
        out = logits(self.spec, fixed, x)
        labels = choose_labels(out.detach()[None]).expand(1, len(x))[0]
        (gradient,) = torch.autograd.grad(F.cross_entropy(out, labels, reduction="sum"), x)
        return gradient[None], out.detach()[None]


def _only(values: Tensor, ndim: int) -> Tensor:
    """The values of the one member, in the layout that convolutions are fastest in."""
    return _fast_layout(values[0] if values.ndim == ndim + 1 else values)


def _fast_layout(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values
