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
    from .adversarial import Adversarial
    from .anew import Anew, Paired
    from .batch import BatchCopies
    from .ensemble import EnsembleTraining
    from .fast import Fast
    from .fosc import FOSC
    from .free import Free
    from .logit_pairing import LogitPairing
    from .mart import MART
    from .trades import TRADES
else:
    __getattr__ = lazy_exports(
        __name__,
        adversarial="Adversarial",
        anew="Anew Paired",
        batch="BatchCopies",
        ensemble="EnsembleTraining",
        fast="Fast",
        fosc="FOSC",
        free="Free",
        logit_pairing="LogitPairing",
        mart="MART",
        trades="TRADES",
    )

__all__ = [
    "DEFENCES",
    "FOSC",
    "MART",
    "TRADES",
    "Adversarial",
    "Anew",
    "Batch",
    "BatchCopies",
    "Copies",
    "Defence",
    "EnsembleTraining",
    "Fast",
    "Free",
    "LogitPairing",
    "NoDefence",
    "Paired",
]
