"""Operations with a plain-torch definition and faster backends, tested against it: the dispatched functions."""

from .dropout.dispatch import dropout
from .fgsm.dispatch import Perturbed, apply_signs, fgsm

__all__ = ["Perturbed", "apply_signs", "dropout", "fgsm"]
