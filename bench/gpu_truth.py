"""Is a training step right: every step anew from float64's own state, with torch's own rounding as the yardstick.

Whole trainings cannot be compared: a ReLU on the other side of its kink, or Adam where a gradient is but rounding,
amplify rounding by chance. Two of torch's own ways to compute a float32 convolution on a CPU leave losses of MNIST 1e-7
and 7e-3 away from float64's after ten steps, both of them right. So each step begins where float64 stands, and its loss
and update are compared; of steps in a row only that they stay near.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atras.engines import Engine, Epoch, FusedEngine, LoopEngine
from atras.experiment import Protocol
from atras.networks import Cotangent, Member, Parameters, Spec, StepResult

STEPS = 10
"""Where the data have as many whole batches."""
TRUE = {"fp32": 1e-6, "tf32": 2e-3, "bf16": 1e-3}
"""Largest relative error of the loss of a step from float64's state.

A logit sums up to a thousand products, each off by 2**-24 or 2**-8 of itself; their signs differ, and so do the errors
of a batch's 128 losses, of which the mean is taken. tf32 cuts both factors off, so that products are up to 2**-9 too
small, all of them. Over ten steps of MNIST on an H100 it was 2e-8, 5e-4 and 1e-4. Weights that are off by a hundredth
are off by 1e-2."""
FACTOR = 4
"""How many times the error of torch's own updates ours may have, in the median: sums in another order, or tf32 cut off
instead of rounded, are less than that, and every update is a mean over all parameters of a network. On a CPU it is 1.0
times torch's in fp32 (2e-6) and bf16 (4e-2), on an H100 0.2 times in fp32 and 0.9 and 1.1 times in tf32 and bf16."""
FLIPPED = 1e-2
"""Largest relative error of any update in fp32, where one or the other finds a ReLU on the other side of its kink: of
float32's errors, 2e-6 in the median, the largest were 2e-2 (torch), 4e-3 (C++) and 1e-3 (Triton). In the other
precisions it happens in every step, and torch's own error is the measure."""
ADRIFT = 5e-2
"""Largest relative error of a loss of steps in a row, amplified by chance: 2e-2 were measured in tf32."""


class Yardstick(LoopEngine):
    """Training by torch's own operations, `rounding` as no engine but fused does by itself: tf32 or bf16."""

    rounding = "fp32"

    def _step(self, images: Tensor, labels: Tensor, cotangent: Cotangent) -> StepResult:
        with _rounding(self.rounding, self.device):
            return super()._step(images, labels, cotangent)


@contextlib.contextmanager
def _rounding(precision: str, device: torch.device) -> Iterator[None]:
    """Torch's own tf32, or its automatic bf16."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    with contextlib.ExitStack() as stack:
        if precision == "bf16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        elif precision == "tf32":
            for owner in (cudnn.conv, matmul):
                stack.callback(setattr, owner, "fp32_precision", owner.fp32_precision)
                owner.fp32_precision = "tf32"
        yield


class Moment(NamedTuple):
    """A member's parameters and the optimizer's two moments, in float64, and the steps taken."""

    slots: list[Parameters]
    steps: int

    @classmethod
    def of(cls, engine: Engine, index: int) -> Moment:
        """That of a member now."""
        return cls([engine.get_parameters(index, slot) for slot in range(3)], engine.steps)

    def begin(self, engine: Engine, index: int) -> None:
        """Have a member go on from here."""
        engine.steps = self.steps
        for slot, values in enumerate(self.slots):
            single = {name: value.to(engine.device, engine.dtype) for name, value in values.items()}
            engine.set_parameters(index, single, slot)

    def move(self, after: Parameters) -> Tensor:
        """How far all parameters moved from here, in float64; from here as rounded where those are."""
        moved = [after[name].cpu().double() - before.to(after[name].dtype).double() for name, before in
                 self.slots[0].items()]  # fmt: skip
        return torch.cat([each.flatten() for each in moved])


class Errors(NamedTuple):
    """Relative errors of steps from float64's state: the largest of the losses of each, and of every update of each
    member, ours and torch's own."""

    losses: list[float]
    updates: list[float]
    torch: list[float]


class Truth:
    """Some members in float64 on the CPU, step by step.

    Args:
        spec, members, protocol: what is trained, by Adam.
        work: what it is trained on, for one member: a number of whole batches.
    """

    def __init__(self, spec: Spec, members: Sequence[Member], protocol: Protocol, work: Epoch) -> None:
        self.spec, self.members, self.protocol, self.work = spec, members, protocol, work
        self.engines = [self._engine(LoopEngine, member, "fp64", torch.device("cpu")) for member in members]

    def _engine(self, kind: type[LoopEngine], member: Member, precision: str, device: torch.device) -> LoopEngine:
        engine = kind(self.spec, [member], self.protocol.replace(precision=precision), device)
        engine.begin_phase("train")
        return engine

    def batch(self, step: int, device: torch.device) -> Epoch:
        """The work of a step, for one member."""
        size, work = self.protocol.batch_size, self.work
        orders = work.orders[:, step * size : (step + 1) * size]
        rows = torch.zeros(1, dtype=torch.int64, device=device)
        tensors = (work.images.to(device), work.labels.to(device), orders.to(device), rows)
        return Epoch(*tensors, None, 0.0)

    def errors(self, engine: FusedEngine, indices: Sequence[int], rounding: str) -> Errors:
        """Of every step, beside torch's own with the same rounding.

        Args:
            engine: under test; it is left somewhere.
            indices: of the members in it.
            rounding: its precision.
        """
        device, found = engine.device, Errors([], [], [])
        yardsticks = [self._engine(Yardstick, member, "fp32", device) for member in self.members]
        for each in yardsticks:
            each.rounding = rounding  # type: ignore[attr-defined]
        for step, (befores, losses, moves) in enumerate(self.steps()):
            for index, yardstick, before in zip(indices, yardsticks, befores, strict=True):
                before.begin(engine, index)
                before.begin(yardstick, 0)
            batch = self.batch(step, device)
            own = batch._replace(order_of=torch.zeros(len(engine.members), dtype=torch.int64, device=device))
            told = engine.epoch(own).losses[list(indices), 0].cpu()
            found.losses.append(float(((told - losses).abs() / losses).max()))
            for yardstick in yardsticks:
                yardstick.epoch(batch)
            ours = [b.move(engine.get_parameters(i)) for b, i in zip(befores, indices, strict=True)]
            theirs = [b.move(each.get_parameters(0)) for b, each in zip(befores, yardsticks, strict=True)]
            for errors, tried in ((found.updates, ours), (found.torch, theirs)):
                errors += [float((a - b).norm() / b.norm()) for a, b in zip(tried, moves, strict=True)]
        return found

    def steps(self) -> Iterator[tuple[list[Moment], Tensor, list[Tensor]]]:
        """Of every step: where each member began, its loss, its move. Computed once."""
        if not hasattr(self, "_kept"):
            self._kept = [self._advance(step) for step in range(self.work.orders.shape[1] // self.protocol.batch_size)]
        yield from self._kept

    def _advance(self, step: int) -> tuple[list[Moment], Tensor, list[Tensor]]:
        befores = [Moment.of(each, 0) for each in self.engines]
        losses = torch.cat([each.epoch(self.batch(step, each.device)).losses[0] for each in self.engines])
        moves = [b.move(each.get_parameters(0)) for b, each in zip(befores, self.engines, strict=True)]
        return befores, losses, moves

    def adrift(self, losses: Tensor) -> list[float]:
        """Relative errors of losses [M, S] of steps in a row."""
        exact = torch.stack([each for _, each, _ in self.steps()], 1)
        return ((losses - exact).abs() / exact).amax(0).tolist()


def verdict(precision: str, errors: Errors, adrift: Sequence[float]) -> tuple[dict[str, Any], str]:
    """Whether a precision is right, with the figures behind that, as JSON values; and the same as a line.

    Args:
        precision: which one.
        errors: of single steps.
        adrift: relative errors of the losses of steps in a row.
    """
    single = torch.tensor(errors.losses).max().item()
    ours, theirs = torch.tensor(errors.updates), torch.tensor(errors.torch)
    ratio, largest = float(ours.median() / theirs.median()), float(ours.max())
    allowed, last = max(FLIPPED, FACTOR * float(theirs.max())), torch.tensor(adrift).max().item()
    ok = single <= TRUE[precision] and ratio <= FACTOR and largest <= allowed and last <= ADRIFT  # NaN is not
    line = f"{precision}: {ok}; relative errors of a step's loss {single:.1e} (at most {TRUE[precision]:.0e}), of its "
    line += f"update in the median {float(ours.median()):.1e}, {ratio:.2f} times torch's own (at most {FACTOR}), the "
    line += f"largest {largest:.1e} (at most {allowed:.1e}); of the losses of steps in a row {last:.1e} (at most "
    line += f"{ADRIFT:.0e})"
    return {"ok": ok, **errors._asdict(), "ratio": ratio, "adrift": list(adrift)}, line
