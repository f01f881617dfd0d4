"""Defences: one file a defence, and a register that knows them by name. A defence is a frozen dataclass that trains
networks on one batch; it knows attacks and what trains (`networks.Trainable`), never an engine, and imports torch
only then."""

from .batch import BatchCopies
from .copies import Copies
from .defence import Batch, Defence
from .registry import DEFENCES

__all__ = ["DEFENCES", "Batch", "BatchCopies", "Copies", "Defence"]
