"""One rise and one fall of the learning rate, to far below where it began."""

from __future__ import annotations

import math
from dataclasses import dataclass

from atras.checks import one_of

from .schedule import Schedule


@dataclass(frozen=True, repr=False)
class OneCycle(Schedule):
    """From a low rate up to the learning rate, and down to nearly nothing at the phase's last step.

    `torch.optim.lr_scheduler.OneCycleLR` over the steps of the phase, without its change of momentum. Its rise is its
    warm-up.

    Args:
        peak: where in the phase the learning rate itself is reached, as a share of it (torch's `pct_start`).
        div_factor: by which the first step's rate is below the learning rate.
        final_div_factor: by which the last step's rate is below the first one's.
        anneal: along `cos` or `linear`.

    Source: Smith and Topin 2018, section 2, as torch and fastai have it.
    """

    peak: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal: str = "cos"

    name = "one-cycle"

    def _check(self) -> None:
        self._numbers(0.0, 1.0, "peak")
        self._numbers(1.0, 1e9, "div_factor", "final_div_factor")
        one_of("one-cycle: anneal", self.anneal, ("cos", "linear"))

    def multiplier(self, step: int, steps: int, epoch_steps: int) -> float:  # noqa: ARG002 (the phase alone counts)
        first = 1 / self.div_factor
        middle, last = self.peak * steps - 1, steps - 1
        if step <= middle or last <= middle:
            return self._between(first, 1.0, step / middle if middle > 0 else 1.0)
        return self._between(1.0, first / self.final_div_factor, (step - middle) / (last - middle))

    def _between(self, start: float, end: float, share: float) -> float:
        """A rate on the way from one to another, of which a share is behind."""
        done = (1 - math.cos(math.pi * share)) / 2 if self.anneal == "cos" else share
        return start + (end - start) * done
