"""Objectives that attacks ascend, as values that an engine recognises and any other code can call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from atras.kernels import dlr, margin, objective_gradient

from .odds import log_odds, log_odds_gradient


@dataclass(frozen=True)
class Objective:
    """An objective at a label for each image, or towards a target: a cotangent, as a function of logits.

    An engine that knows it computes its gradient without a pass for the logits before.

    Args:
        kind: `odds` (`log_odds`, without targets), `margin` or `dlr` (as of `atras.kernels`).
        labels: int64 [B] or [M, B], or of pairs [P].
        targets: int64 of the same shape, or None.
    """

    kind: str
    labels: Tensor
    targets: Tensor | None = None

    def values(self, logits: Tensor) -> Tensor:
        """The objective [..., B] at logits [..., B, Y], which orders images as the gradient ascends them."""
        labels, targets = self._at(logits)
        if self.kind == "odds":
            return log_odds(logits, labels)
        return (dlr if self.kind == "dlr" else margin)(logits, labels, targets)

    def __call__(self, logits: Tensor) -> Tensor:
        """The derivative by logits [..., Y] of the sum of the values."""
        labels, targets = self._at(logits)
        if self.kind == "odds":
            return log_odds_gradient(logits, labels)
        return objective_gradient(self.kind, logits, labels, targets)

    def only(self, kept: Tensor) -> Self:
        """Of pairs, those that a mask bool [P] keeps, or that are at the places int64 [K]."""
        return replace(self, labels=self.labels[kept], targets=None if self.targets is None else self.targets[kept])

    def _at(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """A label and, where there are any, a target for each row."""
        rows = logits.shape[:-1]
        return self.labels.expand(rows), None if self.targets is None else self.targets.expand(rows)
