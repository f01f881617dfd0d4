"""Defences: one file a defence, and a register that knows them by name. A defence is a frozen dataclass that trains
networks on one batch; it knows attacks and what trains (`networks.Trainable`), never an engine, and imports torch
only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atras.lazy import lazy_exports

from .copies import Copies
from .defence import Batch, Defence
from .none import NoDefence
from .registry import DEFENCES

if TYPE_CHECKING:
    from .batch import BatchCopies
else:
    __getattr__ = lazy_exports(__name__, batch="BatchCopies")

__all__ = ["DEFENCES", "Batch", "BatchCopies", "Copies", "Defence", "NoDefence"]
