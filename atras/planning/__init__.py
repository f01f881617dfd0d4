"""Planning: counted cost, the abilities of a machine, members into groups, the plan, and predicted seconds. The plan
is a pure function of protocol, data shape, machine and memory cap; measured speed predicts seconds and decides
nothing."""

from .calibration import speed
from .cost import activation_values, forward_flops, member_bytes, training_flops
from .fit import why_impossible, why_unfit
from .grouping import halves, make_groups
from .machine import MEMORY_SHARE, Machine, choose_engine, precision_reason, reason_for
from .plan import Group, Plan
from .predicted_seconds import Speed, add_source, predict

__all__ = [
    "MEMORY_SHARE",
    "Group",
    "Machine",
    "Plan",
    "Speed",
    "activation_values",
    "add_source",
    "choose_engine",
    "forward_flops",
    "halves",
    "make_groups",
    "member_bytes",
    "precision_reason",
    "predict",
    "reason_for",
    "speed",
    "training_flops",
    "why_impossible",
    "why_unfit",
]
