"""Attacks: one file an attack, and a register that knows them by name. An attack is a frozen dataclass that is called
with networks and images; it knows a Classifier, never an engine, and imports torch only when it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atras.lazy import lazy_exports

from .attack import Attack, Attacked, AttackSpec, Draw, Passes, Progress, Spent, Start, check_target, spread
from .fgsm import FGSM, Signed
from .registry import ATTACKS
from .surrogate import Stand, Surrogate, parse_surrogate

if TYPE_CHECKING:
    from .apgd import APGD, APGDT
    from .autoattack import AutoAttack
    from .balls import LinfBall
    from .cw import CW
    from .deepfool import DeepFool
    from .ensemble import Ensemble
    from .fab import FABT
    from .fmn import FMN
    from .kl import KL
    from .norms import norm_of
    from .pair_attack import PairAttack
    from .pgd import PGD, RandomFGSM
    from .random_signs import RandomSigns
    from .random_starts import starts
    from .square import Square
else:
    __getattr__ = lazy_exports(
        __name__,
        apgd="APGD APGDT",
        autoattack="AutoAttack",
        balls="LinfBall",
        cw="CW",
        deepfool="DeepFool",
        ensemble="Ensemble",
        fab="FABT",
        fmn="FMN",
        kl="KL",
        norms="norm_of",
        pair_attack="PairAttack",
        pairs="Pairs",
        pgd="PGD RandomFGSM",
        random_signs="RandomSigns",
        random_starts="starts",
        square="Square",
        stages="Unwatched",
    )

__all__ = [
    "APGD",
    "APGDT",
    "ATTACKS",
    "CW",
    "FABT",
    "FGSM",
    "FMN",
    "KL",
    "PGD",
    "Attack",
    "AttackSpec",
    "Attacked",
    "AutoAttack",
    "DeepFool",
    "Draw",
    "Ensemble",
    "LinfBall",
    "PairAttack",
    "Pairs",
    "Passes",
    "Progress",
    "RandomFGSM",
    "RandomSigns",
    "Signed",
    "Spent",
    "Square",
    "Stand",
    "Start",
    "Surrogate",
    "Unwatched",
    "check_target",
    "norm_of",
    "parse_surrogate",
    "spread",
    "starts",
]
