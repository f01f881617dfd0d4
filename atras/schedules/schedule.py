"""The base class of schedules: the learning rate over the optimizer steps of a phase."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from atras.checks import number
from atras.registry import Spelled, accept_forms

MOST_EPOCHS = 1e6
"""Most epochs that a length may have: as many as a phase may have."""


@dataclass(frozen=True, repr=False)
class Schedule(Spelled, ABC):
    """Base class of schedules.

    A subclass is a frozen dataclass: its fields are its options, spelled alike in Python, on the command line and in
    files. Its rates are a pure function of the step, so that a run that is interrupted goes on with the same ones.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        accept_forms(self)
        self._check()

    @property
    def varies(self) -> bool:
        """Whether the learning rate changes at all."""
        return True

    @abstractmethod
    def multiplier(self, step: int, steps: int, epoch_steps: int) -> float:
        """By how much the learning rate is multiplied at a step.

        Args:
            step: optimizer steps that the phase has made before, from 0.
            steps: of the whole phase, at least 1.
            epoch_steps: of an epoch, at least 1.
        """

    @abstractmethod
    def _check(self) -> None:
        """Refuse options out of range, and bring numbers into one form, so that equal schedules are spelled alike."""

    def _numbers(self, low: float, high: float, *options: str) -> None:
        """Check options that are numbers in a range."""
        for option in options:
            number(f"{self.name}: {option}", getattr(self, option), low, high)
            object.__setattr__(self, option, float(getattr(self, option)) + 0.0)  # of which -0.0 is 0.0


@dataclass(frozen=True, repr=False)
class WarmedUp(Schedule):
    """Base class of schedules that may begin with a linear rise of the learning rate.

    With a warm-up of W steps the steps 1, 2, ... W of a phase have 1 / W, 2 / W, ... 1 of the learning rate: what
    `torch.optim.lr_scheduler.LinearLR(start_factor=1 / W, total_iters=W - 1)` gives.

    Args:
        warmup: length of the rise in epochs, rounded to whole steps.

    Source: Goyal et al. 2017, section 2.2.
    """

    warmup: float = field(default=0.0, kw_only=True)

    def _check(self) -> None:
        self._numbers(0.0, MOST_EPOCHS, "warmup")

    def warmup_steps(self, epoch_steps: int) -> int:
        """Steps of the rise."""
        return round(self.warmup * epoch_steps)

    def rise(self, step: int, epoch_steps: int) -> float:
        """The multiplier that the warm-up has at a step: 1 behind it."""
        length = self.warmup_steps(epoch_steps)
        return min(1.0, (step + 1) / length) if length else 1.0
