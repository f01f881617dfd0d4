"""Operations with a plain-torch definition and faster backends, tested against it: the dispatched functions."""

from .ascent.dispatch import ascent_step, keep_rows
from .dropout.dispatch import dropout
from .fgsm.dispatch import Perturbed, apply_signs, fgsm
from .projection.dispatch import boundary_step
from .square.dispatch import keep_better, propose_bumps, propose_corners
from .step.dispatch import Step
from .step.objectives import OBJECTIVES, dlr, margin, objective_gradient
from .step.pairs import members_of_pairs, pad_pairs, unpad_pairs
from .step.reference import ConvLayer, InputGradient

__all__ = [
    "OBJECTIVES",
    "ConvLayer",
    "InputGradient",
    "Perturbed",
    "Step",
    "apply_signs",
    "ascent_step",
    "boundary_step",
    "dlr",
    "dropout",
    "fgsm",
    "keep_better",
    "keep_rows",
    "margin",
    "members_of_pairs",
    "objective_gradient",
    "pad_pairs",
    "propose_bumps",
    "propose_corners",
    "unpad_pairs",
]
