"""Engine `loop`: one member at a time in plain torch, with torch's own optimizers. The oracle of every other engine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from atras.errors import InputError
from atras.networks import Cotangent, Dropout, Parameters, StepResult, dropout_key

from .average import Average
from .engine import AVERAGE, Engine, definite, derivative


class LoopEngine(Engine):
    """A single member; its tensors still carry the member axis (M = 1) outside. See `Engine`.

    Raises:
        InputError: if there is not exactly one member.
    """

    name = "loop"
    one_by_one = True
    one_pass = True

    def _build(self) -> None:
        if refused := self.refusal(self.spec, [member.candidate for member in self.members]):
            raise InputError(f"engine (={self.name}): {refused}")
        if len(self.members) != 1:
            raise InputError(f"loop: expected one member, got {len(self.members)}; make an engine for each")
        (self.member,), (self.network,) = self.members, self.networks
        initial = self.network.initial_parameters(self.member.seed, self.dtype)
        self.parameters: Parameters = {
            name: _fast_layout(values.to(self.device)).requires_grad_() for name, values in initial.items()
        }
        self._start_average()

    def _start_average(self) -> None:
        self.average = Average(self.parameters, self.protocol.average) if self.averages else None

    def _set_parameters(self, index: int, values: Parameters, moment: int) -> None:
        del index  # there is one member
        for name, array in values.items():
            if moment == 0:
                self.parameters[name].detach().copy_(array)
            if self.average is not None and moment in (0, AVERAGE):
                self.average.set(name, array)
            if moment in (1, 2):
                self._state_of(name)[self._moment(moment)] = torch.zeros_like(self.parameters[name]).copy_(array)

    def _get_parameters(self, index: int, moment: int) -> Parameters:
        del index
        if moment in (0, AVERAGE):
            own = self.parameters if moment == 0 or self.average is None else self.average.values
            return {name: values.detach().clone() for name, values in own.items()}
        states = {name: self.optimizer.state[values] for name, values in self.parameters.items()}
        # SGD without momentum keeps nothing.
        kept = {name: state.get(self._moment(moment)) for name, state in states.items()}
        return {
            name: torch.zeros_like(self.parameters[name]).detach() if values is None else values.clone()
            for name, values in kept.items()
        }

    def _moment(self, moment: int) -> str:
        return "momentum_buffer" if self.protocol.optimizer == "sgd" else ("exp_avg", "exp_avg_sq")[moment - 1]

    def _state_of(self, name: str) -> dict[str, Tensor]:
        """The state that torch's optimizer keeps of a parameter; made here, torch takes it for its own."""
        state = self.optimizer.state[self.parameters[name]]
        if self.protocol.optimizer != "sgd":
            state["step"] = torch.tensor(float(self.steps), dtype=torch.float32, device=self.device)
        return state

    @property
    def steps(self) -> int:
        return self._steps

    @steps.setter
    def steps(self, count: int) -> None:
        self._steps = count
        self._counter = torch.full((), count, dtype=torch.int64, device=self.device)

    def _begin_phase(self, phase: str) -> None:
        key = dropout_key(self.member.seed, self.member.candidate.name, phase)
        self.key = torch.tensor(key, dtype=torch.int64, device=self.device)
        self.steps = 0
        parameters, (rate,), (decay,) = list(self.parameters.values()), self.learning_rates, self.weight_decays
        self.optimizer: torch.optim.Optimizer
        if self.protocol.optimizer == "sgd":
            momentum = self.protocol.momentum
            self.optimizer = torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay)
        else:
            kind = torch.optim.AdamW if self.protocol.optimizer == "adamw" else torch.optim.Adam
            self.optimizer = kind(parameters, lr=rate, weight_decay=decay, fused=True)

    def _step(self, images: Tensor, labels: Tensor, cotangent: Cotangent) -> StepResult:
        x, y = _only(images, 4), _only(labels, 1)
        out = self.network.logits(self.parameters, x, masks=Dropout(self.key, self._counter))
        return self._update(out, y, cotangent)

    def _update(self, out: Tensor, labels: Tensor, cotangent: Cotangent) -> StepResult:
        """The optimizer's step of the member, from the logits [B, Y] of its pass."""
        protocol, loss = self.protocol, F.cross_entropy(out, labels)
        self.optimizer.zero_grad()
        if cotangent is not None:
            torch.autograd.backward(out, definite(cotangent, out.detach()[None])[0])
        elif protocol.label_smoothing:
            torch.autograd.backward(F.cross_entropy(out, labels, label_smoothing=protocol.label_smoothing))
        else:
            torch.autograd.backward(loss)
        if protocol.clip_gradient is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), protocol.clip_gradient)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rates[0] * self.multiplier(self.steps)
        self.optimizer.step()
        self._steps, self._counter = self._steps + 1, self._counter + 1
        if self.average is not None:
            self.average.update(self.parameters, self.steps)
        return StepResult(loss.detach()[None], (out.argmax(-1) == labels).sum()[None])

    @property
    def evaluated(self) -> Parameters:
        """The parameters that evaluation reads, detached."""
        own = self.average.values if self.average is not None and self.reads_average else self.parameters
        return {name: values.detach() for name, values in own.items()}

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        return self.network.logits(self.evaluated, _only(images, 4))[None]

    def _gradient(self, images: Tensor, cotangent: Cotangent) -> tuple[Tensor, Tensor]:
        x = _only(images, 4).detach().requires_grad_()
        out = self.network.logits(self.evaluated, x)
        (gradient,) = torch.autograd.grad(out, x, derivative(cotangent, out.detach()[None])[0])
        return gradient[None], out.detach()[None]


def _only(values: Tensor, ndim: int) -> Tensor:
    """The values of the one member, in the layout that convolutions are fastest in."""
    return _fast_layout(values[0] if values.ndim == ndim + 1 else values)


def _fast_layout(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values
