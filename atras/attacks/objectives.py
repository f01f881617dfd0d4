"""Objectives that attacks ascend, as functions of logits [P, Y]: their values and their gradients.

Source: Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", section 4 (difference of logits ratio).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TINY = 1e-12


def cotangent_of(objective: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The gradient by logits [P, Y] of the sum of an objective's values [P]."""

    def gradient(logits: Tensor) -> Tensor:
        with torch.enable_grad():
            own = logits.detach().requires_grad_()
            (slope,) = torch.autograd.grad(objective(own).sum(), own)
        return slope

    return gradient


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The highest other logit less the label's, [P]: positive where the image is misclassified."""
    own = logits.gather(-1, labels[:, None])[:, 0]
    return logits.scatter(-1, labels[:, None], -torch.inf).amax(-1) - own


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, [P]: the margin over the first less the third highest logit.

    With two classes there is no third logit, and it is the margin.
    """
    ordered = logits.sort(-1).values
    if logits.shape[-1] < 3:
        return margin(logits, labels)
    return margin(logits, labels) / (ordered[:, -1] - ordered[:, -3] + TINY)


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The target's logit less the label's, [P]."""
    return logits.gather(-1, targets[:, None])[:, 0] - logits.gather(-1, labels[:, None])[:, 0]


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The same towards a target, [P]: its logit less the label's over the first less the mean of third and fourth.

    With three classes the third stands for that mean; with two, nothing is divided by.
    """
    difference = targeted_margin(logits, labels, targets)
    ordered, classes = logits.sort(-1).values, logits.shape[-1]
    if classes < 3:
        return difference
    low = ordered[:, -3] if classes == 3 else (ordered[:, -3] + ordered[:, -4]) / 2
    return difference / (ordered[:, -1] - low + TINY)
