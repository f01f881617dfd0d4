"""Objectives of op step beside the log-odds, as functions of logits [..., Y]: the definition of values and derivatives.

Source: Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", section 4 (difference of logits ratio) and 4.1 (towards a target).
"""

from __future__ import annotations

import torch
from torch import Tensor

OBJECTIVES = ("odds", "margin", "dlr")
"""What input gradients can be of: the log-odds against a label, the margin over it, the difference of logits ratio."""

TINY = 1e-12


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The highest other logit, or the target's, less the label's: positive where the image is misclassified.

    Args:
        logits: floating point [..., Y].
        labels: int64 [...].
        targets: int64 [...], or None.

    Returns:
        [...], of the logits' type.
    """
    own = logits.gather(-1, labels[..., None])[..., 0]
    if targets is not None:
        return logits.gather(-1, targets[..., None])[..., 0] - own
    return logits.scatter(-1, labels[..., None], -torch.inf).amax(-1) - own


def dlr(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Difference of logits ratio: the margin over the first less the third highest logit.

    Towards a target the mean of third and fourth stands for the third, where there are four. With two classes nothing
    is divided by. Of equal logits those of higher numbers count as the higher ones, and NaN as the highest of all.

    Args:
        logits, labels, targets: as of `margin`.

    Returns:
        [...], of the logits' type.
    """
    difference, classes = margin(logits, labels, targets), logits.shape[-1]
    if classes < 3:
        return difference
    ordered = torch.sort(logits, dim=-1, stable=True).values
    low = ordered[..., -3]
    if targets is not None and classes > 3:
        low = (low + ordered[..., -4]) / 2
    return difference / (ordered[..., -1] - low + TINY)


VALUES = {"margin": margin, "dlr": dlr}


def objective_gradient(objective: str, logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The derivative by logits [..., Y] of `margin` or `dlr`, summed over all rows; other arguments as theirs."""
    with torch.enable_grad():
        own = logits.detach().requires_grad_()
        (slope,) = torch.autograd.grad(VALUES[objective](own, labels, targets).sum(), own)
    return slope
