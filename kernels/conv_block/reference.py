"""A convolution and what follows it in plain torch: the definition. Runs under vmap."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..dropout import reference as dropout
from ..step.reference import ACTIVATIONS


def conv_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    key: Tensor | None,
    step: Tensor | None,
    activation: str,
    padding: int,
    pool: bool,
    rate256: int,
    layer: int,
) -> Tensor:
    """One candidate's block; see `atras.kernels.conv_block`, whose arguments these are."""
    y = ACTIVATIONS[activation](F.conv2d(x, weight, bias, padding=padding))
    y = F.max_pool2d(y, 2) if pool else y
    return y if key is None or step is None or rate256 == 0 else dropout.dropout(y, key, step, layer, rate256, None)
