"""A dense layer and its activation in plain torch: the definition. Runs under vmap."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..step.reference import ACTIVATIONS


def dense(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """One candidate's layer; see `atras.kernels.dense`, whose arguments these are."""
    z = F.linear(x, weight, bias)
    return z if activation == "none" else ACTIVATIONS[activation](z)
