"""A learning rate that rises and falls along straight lines."""

from __future__ import annotations

from dataclasses import dataclass

from atras.checks import whole

from .schedule import Schedule


@dataclass(frozen=True, repr=False)
class Cyclic(Schedule):
    """Along straight lines from a share of the learning rate up to it and back, once or several times over the phase.

    `torch.optim.lr_scheduler.CyclicLR` in mode `triangular`, without its change of momentum. Its rise is its warm-up.

    Args:
        peak: where in a cycle the learning rate itself is reached, as a share of it.
        low: share of the learning rate at both ends.
        cycles: over the phase.
        ahead: steps by which it is ahead of torch's, whose first step has the lowest rate: with 1 the first step
            has the next one, and the last step the lowest (Wong et al.'s recipe for MNIST, with `peak` 0.4).

    Source: Smith 2017, section 3.1; Wong, Rice, Kolter 2020, section 5.
    """

    peak: float = 0.5
    low: float = 0.0
    cycles: int = 1
    ahead: int = 0

    name = "cyclic"

    def _check(self) -> None:
        self._numbers(0.0, 1.0, "peak", "low")
        whole("cyclic: cycles", self.cycles, 1, 10**6)
        whole("cyclic: ahead", self.ahead, 0, 1)

    def multiplier(self, step: int, steps: int, epoch_steps: int) -> float:  # noqa: ARG002 (the phase alone counts)
        done = (step + self.ahead) * self.cycles
        # The very end is the end of the last cycle, not the beginning of another.
        place = 1.0 if done >= self.cycles * steps else done % steps / steps
        height = place / self.peak if place < self.peak else (1 - place) / (1 - self.peak) if self.peak < 1 else 1.0
        return self.low + (1 - self.low) * height
