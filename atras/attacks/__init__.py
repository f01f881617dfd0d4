"""Attacks: one file an attack, and a register that knows them by name. An attack is a frozen dataclass that is called
with networks and images; it knows a Classifier, never an engine, and imports torch only when it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atras.lazy import lazy_exports

from .attack import Attack, Attacked, AttackSpec, Draw, Passes, Progress, Start, check_target
from .fgsm import FGSM, Signed
from .registry import ATTACKS

if TYPE_CHECKING:
    from .deepfool import DeepFool
    from .pgd import PGD, RandomFGSM
    from .random_starts import starts
else:
    __getattr__ = lazy_exports(__name__, deepfool="DeepFool", pgd="PGD RandomFGSM", random_starts="starts")

__all__ = [
    "ATTACKS",
    "FGSM",
    "PGD",
    "Attack",
    "AttackSpec",
    "Attacked",
    "DeepFool",
    "Draw",
    "Passes",
    "Progress",
    "RandomFGSM",
    "Signed",
    "Start",
    "check_target",
    "starts",
]
