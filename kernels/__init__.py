"""Operations with a plain-torch definition and faster backends, tested against it: the dispatched functions."""

from .adam.dispatch import adam
from .conv_block.dispatch import conv_block
from .cross_entropy.dispatch import cross_entropy
from .dense.dispatch import dense
from .dropout.dispatch import dropout
from .fgsm.dispatch import Perturbed, apply_signs, fgsm
from .step.dispatch import Step

__all__ = [
    "Perturbed",
    "Step",
    "adam",
    "apply_signs",
    "conv_block",
    "cross_entropy",
    "dense",
    "dropout",
    "fgsm",
]
