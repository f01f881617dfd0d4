"""A learning rate that falls at certain epochs."""

from __future__ import annotations

from dataclasses import dataclass

from atras.checks import distinct, number
from atras.errors import InputError

from .schedule import MOST_EPOCHS, WarmedUp

MOST_FALLS = 100
"""Most places at which a rate may fall: as many digits as a spelling has room for."""


@dataclass(frozen=True, repr=False)
class Step(WarmedUp):
    """Multiplied by a factor every so many epochs, or after given ones; the warm-up's rise is multiplied with it.

    `torch.optim.lr_scheduler.StepLR` (`every`) and `MultiStepLR` (`at`), counted in optimizer steps.

    Args:
        warmup: as in `WarmedUp`; epochs are counted from its beginning.
        every: epochs between falls; 0 where `at` says when.
        at: epochs that are behind when the rate falls, such as (100, 150): the 101st is the first with a lower one.
        factor: by which each fall multiplies.

    Raises:
        InputError: if neither or both of `every` and `at` are given.
    """

    every: float = 0.0
    at: tuple[float, ...] = ()
    factor: float = 0.1

    name = "step"

    def _check(self) -> None:
        super()._check()
        self._numbers(0.0, MOST_EPOCHS, "every")
        self._numbers(0.0, 1e6, "factor")
        if self.at != ():
            distinct("step: at", self.at, lambda epoch: number("step: at", epoch, 0.0, MOST_EPOCHS))
        if bool(self.every) == bool(self.at) or len(self.at) > MOST_FALLS:
            raise InputError(
                f"schedule (={self}): expected either every, such as step(every=10), or at most {MOST_FALLS} epochs, "
                "such as step(at=(100, 150))"
            )
        object.__setattr__(self, "at", tuple(sorted(float(epoch) for epoch in self.at)))

    def multiplier(self, step: int, steps: int, epoch_steps: int) -> float:  # noqa: ARG002 (alike for any length)
        if self.every:
            falls = int(step // max(1, round(self.every * epoch_steps)))
        else:
            falls = sum(step >= round(epoch * epoch_steps) for epoch in self.at)
        return self.rise(step, epoch_steps) * self.factor**falls
