"""TRADES: accuracy, and answers that stay what they are within the ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.attacks import KL, Attack
from atras.checks import number

from .anew import Paired, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, repr=False)
class TRADES(Paired):
    """CE(clean, label) + beta KL(p(clean) || p(adversarial)), at adversarial images that make the divergence large.

    Args:
        beta: weight of the divergence (1/lambda of the paper).
        attack: of training; `kl` climbs the divergence itself.
        start: see `Anew`.

    Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", equation 5 and
    algorithm 1.
    """

    beta: float = 6.0
    attack: Attack = KL()

    name = "trades"
    own_numbers = True
    weighed_by = "beta"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("beta", self.beta, 0.0, 1e6)

    def losses(self, clean: Tensor, adversarial: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        expected, seen = clean.log_softmax(-1), adversarial.log_softmax(-1)
        divergence = (expected.exp() * (expected - seen)).sum(-1).mean(-1)
        return cross_entropy(clean, labels) + weights * divergence
