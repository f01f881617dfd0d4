"""Engines: each trains, evaluates and differentiates a few members at once, and one register knows them by name.
Engines know networks, kernels and a Protocol's recipe of training; nothing of attacks, defences, groups or
results."""

from atras.experiment import ENGINES

from .engine import DTYPES, KINDS, BatchStep, Engine, Epoch
from .fused import FusedEngine, has_bf16, known_stem, own_convolutions, why_not, why_slow
from .loop import LoopEngine
from .modules import ModulesEngine
from .stack import StackEngine

__all__ = [
    "DTYPES",
    "ENGINES",
    "KINDS",
    "BatchStep",
    "Engine",
    "Epoch",
    "FusedEngine",
    "LoopEngine",
    "ModulesEngine",
    "StackEngine",
    "has_bf16",
    "known_stem",
    "own_convolutions",
    "why_not",
    "why_slow",
]
