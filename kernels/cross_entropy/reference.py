"""Softmax cross-entropy in plain torch: the definition. Runs under vmap."""

from __future__ import annotations

from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """One candidate's mean loss; see `atras.kernels.cross_entropy`, whose arguments these are."""
    return -logits.log_softmax(1).gather(1, labels[:, None]).mean()
