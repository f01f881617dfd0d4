"""MART: adversarial training that looks at images misclassified without any attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.attacks import PGD, Attack
from atras.checks import number

from .anew import Paired

if TYPE_CHECKING:
    from torch import Tensor

OFF_ONE = 1e-4
"""Added to 1 - p before its logarithm, as in the authors' code: where p rounds to 1 it stays finite."""


@dataclass(frozen=True, repr=False)
class MART(Paired):
    """BCE(adversarial) + beta KL(p(clean) || p(adversarial)) (1 - p(clean)[label]): misclassified images weigh more.

    BCE is -log p[label] - log(1 - max over other classes of p), on the adversarial image.

    Args:
        beta: weight of the divergence (lambda of the paper).
        attack: of training, untargeted, at the true label.
        start: see `Anew`.

    Source: Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples", equations
    8, 9 and 13.
    """

    beta: float = 5.0
    attack: Attack = PGD(steps=10)

    name = "mart"
    own_numbers = True
    weighed_by = "beta"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("beta", self.beta, 0.0, 1e6)

    def losses(self, clean: Tensor, adversarial: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        import torch

        own = labels[..., None]
        expected, seen = clean.log_softmax(-1), adversarial.log_softmax(-1)
        rival = seen.exp().scatter(-1, own, 0.0).amax(-1)
        boosted = -seen.gather(-1, own)[..., 0] - torch.log(1 + OFF_ONE - rival)
        divergence = (expected.exp() * (expected - seen)).sum(-1)
        missed = 1 - expected.gather(-1, own)[..., 0].exp()
        return (boosted + weights[:, None] * divergence * missed).mean(-1)
