"""Attacks: one file an attack, and a register that knows them by name. An attack is a frozen dataclass that is called
with networks and images; it knows a Classifier, never an engine, and imports torch only when it computes."""

from .attack import Attack, Attacked, AttackSpec, Draw, Passes, Start
from .deepfool import DeepFool
from .fgsm import FGSM, Signed
from .pgd import PGD, RandomFGSM
from .random_starts import starts
from .registry import ATTACKS

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
    "RandomFGSM",
    "Signed",
    "Start",
    "starts",
]
