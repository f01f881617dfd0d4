"""A learning rate that falls along half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .schedule import WarmedUp


@dataclass(frozen=True, repr=False)
class Cosine(WarmedUp):
    """From the learning rate down to a share of it along half a cosine, over what the warm-up leaves of the phase.

    `torch.optim.lr_scheduler.CosineAnnealingLR` with `T_max` the steps behind the warm-up; where there is one it comes
    after it, as in `SequentialLR`.

    Args:
        warmup: as in `WarmedUp`.
        low: share of the learning rate that it comes down to.

    Source: Loshchilov and Hutter 2017, equation 5, without restarts.
    """

    low: float = 0.0

    name = "cosine"

    def _check(self) -> None:
        super()._check()
        self._numbers(0.0, 1.0, "low")

    def multiplier(self, step: int, steps: int, epoch_steps: int) -> float:
        before = self.warmup_steps(epoch_steps)
        if step < before:
            return self.rise(step, epoch_steps)
        share = (step - before) / max(1, steps - before)
        return self.low + (1 - self.low) * (1 + math.cos(math.pi * share)) / 2
