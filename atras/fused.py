"""Engine `fused`: whole training steps in C++ on the CPU, in Triton on a GPU; members of any depth share a group."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atras.kernels import Step, backends

from .engine import Engine, Epoch, StepResult
from .errors import InputError
from .model import Parameters, initial_parameters, parameter_shapes
from .randomness import dropout_key

CPU = torch.device("cpu")


def why_not(device: torch.device) -> str:
    """Why the engine cannot run on a device; empty where it can."""
    return backends.missing(backends.compiled(device), device)


def why_slow() -> str:
    """Why the engine, where it runs, is slower than plain torch on this processor; empty where it is not."""
    if why_not(torch.device("cpu")) or Step.best_instructions() != "portable":
        return ""
    return "without AVX2 its kernels are slower than torch's"


def has_bf16(device: torch.device = CPU) -> bool:
    """Whether this processor or GPU multiplies bf16 numbers, and the kernels for that are there."""
    return "bf16" in Step.precisions(device)


class FusedEngine(Engine):
    """Members that are stepped, evaluated and attacked by op `step`. See `Engine` for arguments and shapes.

    Raises:
        InputError: if the kernels for the device are missing, or the precision is fp64.
    """

    name = "fused"

    def build(self) -> None:
        if reason := why_not(self.device):
            raise InputError(f"engine (=fused): {reason}")
        if self.protocol.precision == "fp64":
            raise InputError("precision (=fp64): engine fused computes in fp32 or less; use engine loop or stack")
        if self.protocol.precision == "bf16" and not has_bf16(self.device):
            raise InputError("precision (=bf16): this processor or GPU has no bf16; use --precision fp32")
        best = "bf16" if has_bf16(self.device) else "fp32"
        self._op = Step(
            self.spec.image_shape,
            self.spec.classes,
            [member.candidate.hidden for member in self.members],
            stem=self.spec.stem,
            activation=self.spec.activation,
            batch=self.protocol.batch_size,
            threads=torch.get_num_threads(),
            optimizer=self.protocol.optimizer,
            momentum=self.protocol.momentum,
            stem_rate256=max((layer.rate256 for layer in self.spec.convolutions), default=0),
            head_rate256=self.spec.head_rate256,
            precision=best if self.protocol.precision == "auto" else self.protocol.precision,
            device=self.device,
        )
        for index, member in enumerate(self.members):
            self.pour_in(index, initial_parameters(self.spec, member.candidate, member.seed, self.dtype))

    def pour_in(self, index: int, values: Parameters, moment: int = 0) -> None:
        """Replace one member's parameters, all of them."""
        self._op.pour_in(index, list(values.values()), moment)

    def pour_out(self, index: int, moment: int = 0) -> Parameters:
        names = parameter_shapes(self.spec, self.members[index].candidate.hidden)
        return dict(zip(names, self._op.pour_out(index, moment), strict=True))

    @property
    def steps(self) -> int:
        return self._steps

    @steps.setter
    def steps(self, count: int) -> None:
        self._steps = count
        self._op.set_steps([count] * len(self.members))

    def begin_phase(self, phase: str) -> None:
        keys = [dropout_key(member.seed, member.candidate, phase) for member in self.members]
        self._keys = torch.tensor(keys, dtype=torch.int64)
        self._rates = torch.tensor(self.learning_rates, dtype=torch.float64)
        self._steps = 0
        self._op.reset_optimizer()

    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        members, size = len(self.members), labels.shape[-1]
        own = images.ndim == 5 or labels.ndim == 2
        if own:  # one long list of images, of which each member's order names its own
            images = images.expand(members, *images.shape[-4:]).flatten(0, 1)
            labels = labels.expand(members, size).flatten()
        orders = torch.arange(len(labels), device=self.device).view(-1, size)
        rows = torch.arange(members) if own else torch.zeros(members, dtype=torch.int64)
        losses, correct = self._train(Epoch(images, labels, orders, rows, None, 0.0))
        return StepResult(losses[:, 0], correct[:, 0])

    def epoch(self, work: Epoch) -> StepResult:
        if work.craft is not None:  # copies come from the network of that very step
            return super().epoch(work)
        return StepResult(*self._train(work))

    def _train(self, work: Epoch) -> tuple[Tensor, Tensor]:
        """Losses float64 and correct predictions int64, [M, steps]."""
        losses, correct = self._op.train(
            work.images.contiguous(),
            work.labels.contiguous(),
            work.orders.contiguous(),
            order_of=work.order_of,
            signs=work.signs,
            epsilon=work.epsilon,
            learning_rates=self._rates,
            keys=self._keys,
            first_step=self._steps,
        )
        self._steps += losses.shape[1]
        return losses, correct

    def logits(self, images: Tensor) -> Tensor:
        return self._op.logits(images.contiguous())

    def input_gradient(self, images: Tensor, choose_labels: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        out = self.logits(images)
        labels = choose_labels(out).expand(out.shape[:2]).contiguous()
        return self._op.input_gradient(images.contiguous(), labels)[0], out

    def gradient(self, images: Tensor, labels: Tensor) -> Tensor:
        labels = labels.expand(len(self.members), images.shape[-4]).contiguous()
        return self._op.input_gradient(images.contiguous(), labels)[0]
