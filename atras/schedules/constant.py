"""One learning rate from beginning to end."""

from __future__ import annotations

from dataclasses import dataclass

from .schedule import WarmedUp


@dataclass(frozen=True, repr=False)
class Constant(WarmedUp):
    """One learning rate, after its warm-up if there is one. See `WarmedUp`."""

    name = "constant"

    @property
    def varies(self) -> bool:
        return self.warmup > 0

    def multiplier(self, step: int, steps: int, epoch_steps: int) -> float:  # noqa: ARG002 (alike for any length)
        return self.rise(step, epoch_steps)
