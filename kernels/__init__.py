"""Operations with a plain-torch definition and faster backends, tested against it: the dispatched functions."""

from .dropout.dispatch import dropout
from .fgsm.dispatch import Perturbed, apply_signs, fgsm
from .square.dispatch import keep_better, propose_bumps, propose_corners
from .step.dispatch import Step
from .step.pairs import members_of_pairs, pad_pairs, unpad_pairs
from .step.reference import ConvLayer, InputGradient

__all__ = [
    "ConvLayer",
    "InputGradient",
    "Perturbed",
    "Step",
    "apply_signs",
    "dropout",
    "fgsm",
    "keep_better",
    "members_of_pairs",
    "pad_pairs",
    "propose_bumps",
    "propose_corners",
    "unpad_pairs",
]
