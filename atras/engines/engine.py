"""The base class of engines: an engine is a classifier of a few members that also trains them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from atras.experiment import Protocol
from atras.kernels import pad_pairs, unpad_pairs
from atras.networks import Candidate, Cotangent, Member, Network, Parameters, Spec, StepResult, log_odds_gradient
from atras.torch_state import fixed_state

from .epoch import Epoch

DTYPES = {
    "auto": torch.float32, "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.float32, "fp64": torch.float64,
}  # fmt: skip
"""Type of images, parameters, gradients and logits by precision; tf32 and bf16 are inside training's products alone."""

KINDS = ("parameters", "first", "second", "average")
"""Tensors that a member has for each parameter: its values, the optimizer's moments, and the average of its values."""

VARIED = ("learning_rate", "weight_decay", "epsilon")
"""Fields of `Protocol` of which every engine takes a value for each member: variants that differ in these, and in
numbers of a defence that says so (`Defence.own`), share a group."""

AVERAGE = KINDS.index("average")
"""The average among the kinds, whatever the optimizer has."""


class Engine(ABC):
    """M members on one device: a `networks.Trainable`, with what a run needs besides.

    Images are [B, C, H, W], shared by all members, or [M, B, C, H, W]; labels are [B] or [M, B]. No result depends on
    torch's ambient state, and none of it is changed.

    Args:
        spec: what the networks share.
        members: (candidate, seed) pairs that `refusal` has nothing against.
        protocol: precision, optimizer, learning rate, weight decay, epsilon; of the latter three a variant may have its
            own.
        device: where the parameters live.
        learning_rates, weight_decays: one a member, in place of both.

    Raises:
        InputError: if the engine cannot compute these members together.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp64")
    """The arithmetics of training that it has, where the machine has them."""
    one_by_one: ClassVar[bool] = False
    """Whether an engine takes a single member, so that a group needs one each."""
    pads: ClassVar[bool] = False
    """Whether members must be of one structure, and narrower ones are padded to the widest."""
    any_depths: ClassVar[bool] = False
    """Whether members of different depths share a group, each at its natural widths."""
    takes_modules: ClassVar[bool] = False
    """Whether it computes modules of the user, and these alone."""

    def __init__(
        self,
        spec: Spec,
        members: Sequence[Member],
        protocol: Protocol,
        device: torch.device,
        learning_rates: Sequence[float] | None = None,
        weight_decays: Sequence[float] | None = None,
    ) -> None:
        self.spec = spec
        self.members = tuple(members)
        self.networks = tuple(Network(spec, member.candidate) for member in self.members)
        self.protocol = protocol
        self.device = device
        self.dtype = DTYPES[protocol.precision]
        self.learning_rates = tuple(learning_rates or self._own("learning_rate"))
        self.weight_decays = tuple(weight_decays or self._own("weight_decay"))
        self.epsilons = self._own("epsilon")
        """Attack strength of each member's copies."""
        self.phase_steps = self.epoch_steps = 1
        self.reads_average = True
        with fixed_state(device):
            self._build()

    @classmethod
    def refusal(cls, spec: Spec, candidates: Sequence[Candidate], kind: str = "cpu") -> str:  # noqa: ARG003 (most take all)
        """Why the engine cannot compute such networks on a kind of device (`cpu` or `cuda`), whatever the grouping.

        Returns:
            A few words; empty where it can.
        """
        other = next((each for each in candidates if each.complete != cls.takes_modules), None)
        if other is None:
            return ""
        return f"it computes modules of yours, not {other.name}" if cls.takes_modules else _not_a_module(other)

    @classmethod
    def lacks(cls, protocol: Protocol, kind: str = "cpu") -> str:  # noqa: ARG003 (most have all)
        """Why the engine cannot train by the protocol's recipe on a kind of device; empty where it can."""
        return ""

    @classmethod
    def alike(cls, spec: Spec, candidate: Candidate, kind: str = "cpu") -> Hashable:  # noqa: ARG003 (most hold all)
        """What candidates must have in common to share a group on a kind of device: those of equal values can."""
        return None

    def _own(self, field: str) -> tuple[float, ...]:
        """A number of each member: its variant's, or the protocol's."""
        values = (member.variant.get(field) for member in self.members)
        return tuple(float(getattr(self.protocol, field) if value is None else value) for value in values)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.spec.classes

    def begin_phase(self, phase: str, steps: int | None = None, epoch_steps: int = 1) -> None:
        """Forget the optimizer's state, and count steps and dropout masks of this phase.

        Args:
            phase: `train` or `adversarial`.
            steps, epoch_steps: optimizer steps of the whole phase, and of one of its epochs: what a schedule goes by.

        Raises:
            ValueError: if there is a schedule, and nobody says how many steps there will be.
        """
        if steps is None and self.protocol.schedule.varies:
            raise ValueError(f"schedule {self.protocol.schedule}: expected the steps of the phase; give steps")
        self.phase_steps, self.epoch_steps = max(1, steps or 1), max(1, epoch_steps)
        with fixed_state(self.device):
            self._begin_phase(phase)

    def multiplier(self, step: int) -> float:
        """By how much the schedule multiplies the learning rates at a step of the phase, from 0."""
        return self.protocol.schedule.multiplier(step, self.phase_steps, self.epoch_steps)

    def rates(self, count: int) -> Tensor:
        """The learning rates of the next steps: float64 [M, count], on the CPU."""
        factors = [self.multiplier(step) for step in range(self.steps, self.steps + count)]
        rates = torch.tensor(self.learning_rates, dtype=torch.float64, device="cpu")
        return rates[:, None] * torch.tensor(factors, dtype=torch.float64, device="cpu")

    @property
    def averages(self) -> bool:
        """Whether what is evaluated is an average of the parameters."""
        return self.protocol.average > 0

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimizer steps since the phase began: what dropout masks and bias corrections are counted by."""

    @steps.setter
    @abstractmethod
    def steps(self, count: int) -> None: ...

    def step(self, images: Tensor, labels: Tensor, cotangent: Cotangent = None) -> StepResult:
        """Train every member on its batch once.

        Args:
            images: [B, C, H, W] or [M, B, C, H, W].
            labels: int64 [B] or [M, B]; loss and correct predictions are told at them, whatever is trained for.
            cotangent: None for the mean cross-entropy at the labels; else d(objective) / d(logits) [M, B, Y], or a
                function from the step's own logits [M, B, Y] (with its dropout masks) to that.
        """
        with fixed_state(self.device):
            return self._step(_usable(images), _usable(labels), cotangent)

    def epoch(self, work: Epoch) -> StepResult:
        """Train every member on a whole pass, or on a part of it that is a number of whole batches.

        Returns:
            losses float64 [M, S] and correct predictions int64 [M, S], those of each of the S batches as they were
            trained on. They do not depend on how a pass is divided into calls.
        """
        self.reads_average = False  # what trains on attacks meets the network that is trained
        try:
            with fixed_state(self.device):
                return self._epoch(work._replace(images=_usable(work.images), labels=_usable(work.labels)))
        finally:
            self.reads_average = True

    def logits(self, images: Tensor, counts: Tensor | None = None) -> Tensor:
        """Logits in evaluation mode, of the average where there is one; inside `epoch`, of the parameters themselves.

        Args:
            images: [B, C, H, W] or [M, B, C, H, W], float; with counts pairs [P, C, H, W].
            counts: int64 [M] on the CPU: how many of the images are each member's, in the order of the members.

        Returns:
            [M, B, Y], or of pairs [P, Y].
        """
        with fixed_state(self.device):
            return self._logits(_usable(images)) if counts is None else self._logits_of_pairs(_usable(images), counts)

    def gradient(self, images: Tensor, cotangent: Cotangent, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gradient of an objective with respect to the images, in evaluation mode, of the network that `logits` is of.

        Args:
            images: [B, C, H, W] or [M, B, C, H, W], float; with counts pairs [P, C, H, W].
            cotangent: the objective; see `networks.Cotangent`. With labels it is the log-odds against them: the
                direction of the cross-entropy's gradient, at a length that does not fade where a network is sure.
            counts: as in `logits`.

        Returns:
            The gradient [M, B, C, H, W] of the sum over images of the objective, for each image its own, and the logits
            [M, B, Y] it came from; of pairs [P, C, H, W] and [P, Y].
        """
        with fixed_state(self.device):
            if counts is None:
                return self._gradient(_usable(images), cotangent)
            return self._gradient_of_pairs(_usable(images), cotangent, counts)

    def set_parameters(self, index: int, values: Parameters, moment: int = 0) -> None:
        """Set one member's parameters (0), moments (1 and, with `adam`, 2) or average (`AVERAGE`) from their natural
        widths.

        With the parameters comes what else `Network.state_shapes` has, and their average becomes what they are.
        """
        with fixed_state(self.device):
            self._set_parameters(index, values, moment)

    def get_parameters(self, index: int, moment: int = 0) -> Parameters:
        """A copy of one member's parameters, moments or average at their natural widths, named as the parameters."""
        with fixed_state(self.device):
            return self._get_parameters(index, moment)

    def evaluated_parameters(self, index: int) -> Parameters:
        """A copy of what is evaluated of one member: the average where there is one, else the parameters."""
        return self.get_parameters(index, AVERAGE if self.averages else 0)

    def state(self, *, optimizer: bool = True) -> dict[str, Tensor]:
        """All that training goes on from, on the CPU: it fits any engine, grouping and padding.

        Args:
            optimizer: False leaves it out, where a phase is over.

        Returns:
            Tensors named `<kind>/<hidden layers>/<seed>/<parameter>`, with kinds `parameters`, `average` where there is
            one, and, once the phase has made a step, `first` and `second` (moments); and `steps`, int64 [].
        """
        steps = self.steps if optimizer else 0
        state = {"steps": torch.tensor(steps, dtype=torch.int64, device="cpu")}
        for moment in self._kept(steps):
            for index, member in enumerate(self.members):
                for name, values in self.get_parameters(index, moment).items():
                    state[f"{KINDS[moment]}/{member.name}/{name}"] = values.cpu().contiguous()
        return state

    def _kept(self, steps: int) -> list[int]:
        """The kinds of tensors that training goes on from after so many steps, the parameters first."""
        moments = 0 if steps == 0 else 1 if self.protocol.optimizer == "sgd" else 2
        return [*range(1 + moments), *([AVERAGE] if self.averages else [])]

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state; the phase that it is of must have begun. Tensors of other members are passed over.

        On the machine, engine and grouping that it came from, all that follows is bitwise the same.
        """
        self.steps = int(state["steps"])
        for moment in self._kept(self.steps):
            for index, (member, network) in enumerate(zip(self.members, self.networks, strict=True)):
                own = {name: state.get(f"{KINDS[moment]}/{member.name}/{name}") for name in network.state_shapes}
                values = {name: tensor for name, tensor in own.items() if tensor is not None}
                if values:
                    self.set_parameters(index, values, moment)

    # What an engine provides. It is called inside `fixed_state`, with arguments as of the method above of its name.

    @abstractmethod
    def _build(self) -> None:
        """Make the parameters at their initial values, or refuse members that cannot be computed together."""

    @abstractmethod
    def _begin_phase(self, phase: str) -> None: ...

    @abstractmethod
    def _step(self, images: Tensor, labels: Tensor, cotangent: Cotangent) -> StepResult: ...

    def _epoch(self, work: Epoch) -> StepResult:
        results = []
        for number, (images, labels, copied) in enumerate(work.batches(self.protocol.batch_size, self.dtype)):
            if work.batch_step is None:
                results.append(self._step(images, labels, None))
            else:
                results.append(work.batch_step(self, images, labels, copied, number))
        losses = torch.stack([result.losses.double() for result in results], 1)
        return StepResult(losses, torch.stack([result.correct for result in results], 1))

    @abstractmethod
    def _logits(self, images: Tensor) -> Tensor: ...

    @abstractmethod
    def _gradient(self, images: Tensor, cotangent: Cotangent) -> tuple[Tensor, Tensor]: ...

    def _logits_of_pairs(self, images: Tensor, counts: Tensor) -> Tensor:
        return unpad_pairs(self._logits(pad_pairs(images, counts)), counts)

    def _gradient_of_pairs(self, images: Tensor, cotangent: Cotangent, counts: Tensor) -> tuple[Tensor, Tensor]:
        """By default as many images for each member as the one with most has."""

        def padded(logits: Tensor) -> Tensor:
            return pad_pairs(definite(cotangent, unpad_pairs(logits, counts)), counts)

        gradient, logits = self._gradient(pad_pairs(images, counts), padded)
        return unpad_pairs(gradient, counts), unpad_pairs(logits, counts)

    @abstractmethod
    def _set_parameters(self, index: int, values: Parameters, moment: int) -> None: ...

    @abstractmethod
    def _get_parameters(self, index: int, moment: int) -> Parameters: ...


def _not_a_module(candidate: Candidate) -> str:
    return f"it computes layers that atras has, not the module {candidate.name}, which engine modules computes"


def _usable(values: Tensor) -> Tensor:
    """The values as a tensor that may be part of a gradient: one made in inference mode may not."""
    return values.clone() if values.is_inference() else values


def derivative(cotangent: Cotangent, logits: Tensor) -> Tensor:
    """d(objective) / d(logits) [M, B, Y] of an image gradient's objective, at logits [M, B, Y]."""
    value = definite(cotangent, logits)
    return value if value.is_floating_point() else log_odds_gradient(logits, value)


def definite(cotangent: Cotangent, logits: Tensor) -> Tensor:
    """The objective of some logits [..., Y]: int64 labels [...], or d(objective) / d(logits) [..., Y]."""
    value = logits.argmax(-1) if cotangent is None else cotangent(logits) if callable(cotangent) else cotangent
    value = _usable(value)
    return value if value.is_floating_point() else value.expand(logits.shape[:-1])
