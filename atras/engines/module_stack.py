"""Engine `modules-stack`: modules of one architecture that a user brings, as one program under torch.func."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atras.errors import InputError
from atras.networks import Candidate, Cotangent, Own, Parameters, Spec, StepResult, keyed, stable_key, state_of

from .engine import definite
from .stack import StackEngine, gradients_of

State = dict[str, Tensor]

TOLERANCE = 1e-4
"""Share of the logits' size by which a stack may differ from its members alone: float32 rounds far below it."""


class ModuleStackEngine(StackEngine):
    """All members in every launch, in the code of the first one's module. See `Engine` for arguments and shapes.

    Raises:
        InputError: if they are not of one architecture, or their code cannot be stacked.
    """

    name = "modules-stack"
    takes_modules = True
    pads = False

    @classmethod
    def refusal(cls, spec: Spec, candidates: Sequence[Candidate], kind: str = "cpu") -> str:
        if refused := super().refusal(spec, candidates, kind):
            return refused
        return next(filter(None, (why_not_stacked(spec, each) for each in candidates)), "")

    @classmethod
    def alike(cls, spec: Spec, candidate: Candidate, kind: str = "cpu") -> Hashable:  # noqa: ARG003 (each by itself)
        return candidate

    def _build(self) -> None:
        candidates = [member.candidate for member in self.members]
        held = [each.factory.held for each in candidates if each.factory is not None and each.factory.held is not None]
        if refused := "" if held else self.refusal(self.spec, candidates):
            raise InputError(f"engine (={self.name}): {refused}; use engine modules")
        if self.protocol.precision not in ("auto", *self.precisions):
            raise InputError(f"precision (={self.protocol.precision}): engine {self.name} computes in fp32 or fp64")
        modules = [_made(network.own, member.seed) for network, member in zip(self.networks, self.members, strict=True)]
        if len(set(map(architecture, modules))) > 1:
            raise InputError(
                f"engine (={self.name}): expected modules of one architecture, got several; use engine modules"
            )
        self.module = modules[0] if held else modules[0].to(device=self.device, dtype=self.dtype)
        self.module.eval()
        states = [state_of(module) for module in modules]
        stacked = {
            name: torch.stack([_like(state[name], self.device, self.dtype) for state in states]) for name in states[0]
        }
        trained = self.networks[0].parameter_shapes
        self.parameters: Parameters = {name: stacked[name] for name in trained}
        self.kept: State = {name: values for name, values in stacked.items() if name not in trained}
        self._start_average()

    def _set_parameters(self, index: int, values: Parameters, moment: int) -> None:
        for name, array in values.items():
            if name in self.parameters:
                self._put(index, name, array, moment)
            elif moment == 0:
                self.kept[name][index].copy_(array)

    def _get_parameters(self, index: int, moment: int) -> Parameters:
        own = super()._get_parameters(index, moment)
        return own if moment in (1, 2) else own | {name: values[index].clone() for name, values in self.kept.items()}

    def _step(self, images: Tensor, labels: Tensor, cotangent: Cotangent) -> StepResult:
        parameters = {name: values.detach().requires_grad_() for name, values in self.parameters.items()}
        self.module.train()
        try:
            out, kept = self._call(parameters, images)
        finally:
            self.module.eval()
        y = labels.expand(out.shape[:2])
        losses = _cross_entropies(out, y)
        given = None if cotangent is None else definite(cotangent, out.detach())
        smoothing = self.protocol.label_smoothing
        objectives = losses if not smoothing else _cross_entropies(out, y, smoothing)
        self._update(gradients_of(objectives.sum() if given is None else out, given, parameters, images))
        self.kept = {name: values.detach() for name, values in kept.items()}
        return StepResult(losses.detach(), (out.argmax(-1) == y).sum(1))

    def _forward(self, images: Tensor) -> Tensor:
        return self._call(self.evaluated, images)[0]

    def _call(self, parameters: State, images: Tensor) -> tuple[Tensor, State]:
        """Logits [M, B, Y], and what else the modules keep behind the pass."""

        def one(own: State, kept: State, x: Tensor) -> tuple[Tensor, State]:
            state = own | {name: values.clone() for name, values in kept.items()}
            logits = torch.func.functional_call(self.module, state, (x,))
            return logits, {name: state[name] for name in kept}

        axis = 0 if images.ndim == 5 else None
        with keyed(stable_key("stack"), self.device):
            return torch.vmap(one, in_dims=(0, 0, axis))(parameters, self.kept, images)


def _cross_entropies(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy [M] of logits [M, B, Y] at labels [M, B]."""
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=smoothing)
    return each.view(labels.shape).mean(1)


def _made(own: Own | None, seed: int) -> nn.Module:
    if own is None:
        raise InputError("engine (=modules-stack): it computes modules of yours; use --engine auto")
    return own.module(seed)


def _like(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return values.to(device, dtype) if values.is_floating_point() else values.to(device)


def architecture(module: nn.Module) -> Hashable:
    """What modules must have in common to share a stack: classes, what they print of themselves, and shapes."""
    shapes = tuple((name, tuple(values.shape)) for name, values in state_of(module).items())
    return type(module), str(module), shapes


def why_not_stacked(spec: Spec, candidate: Candidate) -> str:
    """Why modules of a candidate cannot share a stack; empty where they can. It is tried, on few images and the CPU."""
    factory = candidate.factory
    if factory is None:
        return f"it computes modules of yours, not {candidate.name}"
    known: dict[Spec, str] = vars(factory).setdefault("_stacked", {})
    if spec not in known:
        known[spec] = _tried(spec, candidate)
    return known[spec]


def _tried(spec: Spec, candidate: Candidate) -> str:
    own = Own(candidate.factory)  # type: ignore[arg-type]  # as why_not_stacked has seen
    found = own.inspect(spec.image_shape)
    if found.draws or found.draws_in_evaluation:
        return f"{candidate.name} draws at random, which members of a stack would share"
    modules = [own.module(seed).float().train() for seed in range(2)]
    if architecture(modules[0]) != architecture(modules[1]):
        return f"{candidate.name} has another architecture for each seed"
    draw = torch.Generator(device="cpu").manual_seed(0)
    images = torch.rand(4, *spec.image_shape, generator=draw)
    states = [{name: values.clone() for name, values in state_of(module).items()} for module in modules]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def one(state: State) -> Tensor:
        own_state = {name: values.clone() for name, values in state.items()}
        return torch.func.functional_call(modules[0], own_state, (images,))

    try:
        with torch.no_grad():
            together = torch.vmap(one)(stacked)
            alone = torch.stack([module(images) for module in modules])
    except Exception as error:
        return f"the code of {candidate.name} cannot be stacked ({type(error).__name__})"
    if not alike_logits(together, alone):
        return f"{candidate.name} gives other logits in a stack"
    return ""


def alike_logits(together: Tensor, alone: Tensor) -> bool:
    """Whether logits of a stack are those of the modules one by one; NaN never is."""
    return bool((together - alone).abs().max() <= TOLERANCE * alone.abs().max())
