"""Engine `modules`: modules that a user brings, one at a time, in their own code and with torch's own optimizers."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping

import torch
from torch import Tensor

from atras.errors import InputError
from atras.networks import (
    Candidate,
    Cotangent,
    Own,
    Parameters,
    Spec,
    StepResult,
    called,
    fill,
    keyed,
    stable_key,
    state_of,
)

from .engine import AVERAGE, definite, derivative
from .loop import LoopEngine

UPDATES = "updates"
"""Begins the names of what a state has besides the tensors of other engines."""


class ModulesEngine(LoopEngine):
    """A single module: in training mode in steps, in evaluation mode otherwise. See `Engine` for arguments and shapes.

    What a module draws from torch's generators is keyed by member, phase and step, so that it depends on nothing else.
    A module that the caller owns (`Factory.holding`) stays where and as it is: put it into `networks.untouched`.

    Raises:
        InputError: if there is not exactly one member, or it is no module.
    """

    name = "modules"
    takes_modules = True

    @classmethod
    def alike(cls, spec: Spec, candidate: Candidate, kind: str = "cpu") -> Hashable:  # noqa: ARG003 (each by itself)
        return candidate

    def _build(self) -> None:
        self._refuse()
        (self.member,), (self.network,) = self.members, self.networks
        self._passes = 0
        self.own: Own = self.network.own  # type: ignore[assignment]  # as _refuse has seen
        self.inspection = self.own.inspect(self.spec.image_shape)
        self.module = self.own.module(self.member.seed)
        if self.own.factory.held is None:
            self.module.to(device=self.device, dtype=self.dtype)
        self.trained = [name for name, values in self.module.named_parameters() if values.requires_grad]
        named = dict(self.module.named_parameters())
        self.parameters: Parameters = {name: named[name] for name in self.trained}
        self._start_average()
        self._evaluate()

    def _refuse(self) -> None:
        if refused := self.refusal(self.spec, [member.candidate for member in self.members]):
            raise InputError(f"engine (=modules): {refused}; use --engine auto")
        if len(self.members) != 1:
            raise InputError(f"modules: expected one member, got {len(self.members)}; make an engine for each")
        if self.protocol.precision not in ("auto", *self.precisions):
            raise InputError(
                f"precision (={self.protocol.precision}): engine modules computes in fp32 or fp64; use --precision auto"
            )

    def _evaluate(self) -> None:
        """Evaluation mode, in which no parameter asks for a gradient."""
        self.module.eval()
        for values in self.parameters.values():
            values.requires_grad_(False)

    def _set_parameters(self, index: int, values: Parameters, moment: int) -> None:
        if moment == 0:
            fill(self.module, values)
        trained = {name: array for name, array in values.items() if name in self.parameters}
        if moment:
            super()._set_parameters(index, trained, moment)
        elif self.average is not None:
            super()._set_parameters(index, trained, AVERAGE)

    def _get_parameters(self, index: int, moment: int) -> Parameters:
        if moment in (1, 2):
            return super()._get_parameters(index, moment)
        own = {name: values.clone() for name, values in state_of(self.module).items()}
        return own | (super()._get_parameters(index, moment) if moment == AVERAGE else {})

    def state(self, *, optimizer: bool = True) -> dict[str, Tensor]:
        """As `Engine.state`, with the updates of each parameter that steps left out, such as a skipped layer's."""
        state = super().state(optimizer=optimizer)
        if optimizer and self.steps:
            for name, values in self.parameters.items():
                count = int(self.optimizer.state[values].get("step", 0)) if values in self.optimizer.state else 0
                if self.protocol.optimizer != "sgd" and count != self.steps:
                    state[f"{UPDATES}/{self.member.name}/{name}"] = torch.tensor(count, dtype=torch.int64, device="cpu")
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        for name, values in self.parameters.items():
            count = state.get(f"{UPDATES}/{self.member.name}/{name}")
            if count is not None and int(state["steps"]):
                self.optimizer.state[values]["step"].fill_(float(count))

    def _begin_phase(self, phase: str) -> None:
        self.phase = phase
        super()._begin_phase(phase)

    def _step(self, images: Tensor, labels: Tensor, cotangent: Cotangent) -> StepResult:
        x, y = _only(images, 4), _only(labels, 1)
        self.module.train()
        for values in self.parameters.values():
            values.requires_grad_()
        try:
            with keyed(stable_key(self.member.seed, self.member.candidate.name, self.phase, self.steps), self.device):
                out = called(self.member.candidate.name, self.module, x)
            return self._update(out, y, cotangent)
        finally:
            self._evaluate()

    @contextlib.contextmanager
    def _as_evaluated(self) -> Iterator[None]:
        """The module with the average in place of its parameters, where there is one to be read.

        Buffers, such as the statistics of batch norm, stay the module's own, as in `AveragedModel`.
        """
        if self.average is None or not self.reads_average:
            yield
            return
        self._exchange(self.average.values)
        try:
            yield
        finally:
            self._exchange(self.average.values)

    def _exchange(self, others: Parameters) -> None:
        for name, values in self.parameters.items():
            values.data, others[name] = others[name], values.data

    def _forward(self, images: Tensor) -> Tensor:
        """The logits [B, Y] of a pass in evaluation mode; what it draws, each pass draws anew."""
        key = stable_key(self.member.seed, self.member.candidate.name, "evaluation", self._passes)
        self._passes += 1
        with keyed(key, self.device):
            return called(self.member.candidate.name, self.module, images)

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        with self._as_evaluated():
            return self._forward(_only(images, 4))[None]

    def _gradient(self, images: Tensor, cotangent: Cotangent) -> tuple[Tensor, Tensor]:
        x = _only(images, 4).detach().requires_grad_()
        with self._as_evaluated():
            out = self._forward(x)
            cotangents = derivative(cotangent, out.detach()[None])[0]
            gradient = None
            if out.requires_grad:
                (gradient,) = torch.autograd.grad(out, x, cotangents, allow_unused=True)
        # Nothing to follow is a gradient of zeros: a caution stands beside the figures.
        gradient = torch.zeros_like(x) if gradient is None else gradient
        return gradient.detach()[None], out.detach()[None]

    def _logits_of_pairs(self, images: Tensor, counts: Tensor) -> Tensor:
        del counts  # all are the one member's
        return self._logits(images)[0]

    def _gradient_of_pairs(self, images: Tensor, cotangent: Cotangent, counts: Tensor) -> tuple[Tensor, Tensor]:
        del counts

        def alone(logits: Tensor) -> Tensor:
            return definite(cotangent, logits[0])[None]

        gradient, logits = self._gradient(images, alone)
        return gradient[0], logits[0]


def _only(values: Tensor, ndim: int) -> Tensor:
    """The values of the one member."""
    return values[0] if values.ndim == ndim + 1 else values
