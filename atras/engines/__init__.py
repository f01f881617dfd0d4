"""Engines: each trains, evaluates and differentiates a few members at once, and one register knows them by name.
Engines know networks, kernels and a Protocol's recipe of training; nothing of attacks, defences, groups or
results."""

from atras.experiment import ENGINES

from .engine import AVERAGE, DTYPES, KINDS, VARIED, Engine
from .epoch import BatchStep, Epoch
from .fused import (
    FusedEngine,
    convolutions_of,
    has_bf16,
    hidden_widths,
    own_convolutions,
    why_not,
    why_slow,
)
from .loop import LoopEngine
from .module_stack import ModuleStackEngine
from .modules import ModulesEngine
from .own_modules import finished_engines, modules_engine
from .stack import StackEngine

__all__ = [
    "AVERAGE",
    "DTYPES",
    "ENGINES",
    "KINDS",
    "VARIED",
    "BatchStep",
    "Engine",
    "Epoch",
    "FusedEngine",
    "LoopEngine",
    "ModuleStackEngine",
    "ModulesEngine",
    "StackEngine",
    "convolutions_of",
    "finished_engines",
    "has_bf16",
    "hidden_widths",
    "modules_engine",
    "own_convolutions",
    "why_not",
    "why_slow",
]
