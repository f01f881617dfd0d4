"""Planning: counted cost, the abilities of a machine, members into groups, the plan, and predicted seconds. The plan
is a pure function of protocol, data shape, machine and memory cap; measured speed predicts seconds and decides
nothing."""

from .attack_speed import attack_speed
from .calibration import speed
from .cost import activation_values, forward_flops, member_bytes, training_flops
from .fit import why_impossible, why_unfit
from .grouping import halves, make_groups
from .machine import (
    MEMORY_SHARE,
    Machine,
    choose_engine,
    memory_cap,
    memory_line,
    precision_reason,
    reason_for,
    threads_line,
)
from .machines import GPUS, Machines
from .parts import batch_bytes, part_of, parts_of, source_parts, tighter, transfer_bytes, transfer_parts
from .plan import Group, Plan, Training
from .predicted_seconds import AttackSpeed, Speed, attack_parts, predict, predict_training
from .schedule import Schedule, deal, schedule
from .shape import shape_of, spec_of
from .spread import TAIL, spread, work_of
from .streaming import chunk_images, images_line, room_for_images
from .trainings import Planned, cut_trainings, needed_by, shared_trainings, source_trainings, united

__all__ = [
    "GPUS",
    "MEMORY_SHARE",
    "TAIL",
    "AttackSpeed",
    "Group",
    "Machine",
    "Machines",
    "Plan",
    "Planned",
    "Schedule",
    "Speed",
    "Training",
    "activation_values",
    "attack_parts",
    "attack_speed",
    "batch_bytes",
    "choose_engine",
    "chunk_images",
    "cut_trainings",
    "deal",
    "forward_flops",
    "halves",
    "images_line",
    "make_groups",
    "member_bytes",
    "memory_cap",
    "memory_line",
    "needed_by",
    "part_of",
    "parts_of",
    "precision_reason",
    "predict",
    "predict_training",
    "reason_for",
    "room_for_images",
    "schedule",
    "shape_of",
    "shared_trainings",
    "source_parts",
    "source_trainings",
    "spec_of",
    "speed",
    "spread",
    "threads_line",
    "tighter",
    "training_flops",
    "transfer_bytes",
    "transfer_parts",
    "united",
    "why_impossible",
    "why_unfit",
    "work_of",
]
