"""The base class of attacks by pairs that look for the smallest change, whatever that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atras.registry import UNSPELLED

from .pair_attack import PairAttack

if TYPE_CHECKING:
    from torch import Tensor

ROUNDINGS = 16
"""Units in the last place of the largest logit by which another class has to lead."""


def lead(logits: Tensor, labels: Tensor) -> Tensor:
    """[P], the highest other logit less the label's, less what it may lose by rounding in a batch of another size.

    The smallest change ends at the boundary itself, where rounding would decide which side an image is counted on.
    """
    import torch

    from atras.networks import Objective

    return Objective("margin", labels).values(logits) - ROUNDINGS * torch.finfo(logits.dtype).eps * logits.abs().amax(1)


@dataclass(frozen=True, repr=False)
class MinimumNorm(PairAttack):
    """The smallest change that it can find for each image that a member classifies correctly.

    All images are looked at to the end: what one is fooled by is only to be made smaller. One for which nothing is
    found stays as it is.

    Args:
        epsilon, target: of no use to it: dropped, and refused; they have no spelling.
    """

    epsilon: float | None = field(default=None, metadata=UNSPELLED)

    bounded = False
    drops_fooled = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "epsilon", None)  # it has no bound

    def runs(self, classes: int) -> int:  # noqa: ARG002 (alike for any number of classes)
        return 1
