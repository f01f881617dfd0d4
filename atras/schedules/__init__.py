"""Schedules: one file a schedule, and a register that knows them by name. A schedule is a frozen dataclass that says by
how much the learning rate is multiplied at each optimizer step; it knows numbers alone."""

from __future__ import annotations

from .constant import Constant
from .cosine import Cosine
from .cyclic import Cyclic
from .one_cycle import OneCycle
from .registry import SCHEDULES
from .schedule import Schedule
from .step import Step

__all__ = ["SCHEDULES", "Constant", "Cosine", "Cyclic", "OneCycle", "Schedule", "Step"]
