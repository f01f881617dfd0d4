"""Initial weights and biases: how they are drawn from their fans, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Fill = Callable[["Tensor", int, int, "torch.Generator"], None]
"""Fills the values of a weight, or of a bias, from the weight's fan in, its fan out and a generator."""


class Initialisation(NamedTuple):
    """How a layer's parameters are drawn.

    Args:
        weight: fills the weight.
        bias: fills the bias beside it; None leaves that at zero.
    """

    weight: Fill
    bias: Fill | None = None


def glorot(values: Tensor, fan_in: int, fan_out: int, draw: torch.Generator) -> None:
    """Uniform in +-sqrt(6 / (fan in + fan out)).

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010),
    eq. 16.
    """
    _uniform(values, 6 / (fan_in + fan_out), draw)


def he(values: Tensor, fan_in: int, fan_out: int, draw: torch.Generator) -> None:  # noqa: ARG001 (one signature)
    """Uniform in +-sqrt(6 / fan in): variance 2 / fan in.

    Source: He et al., "Delving Deep into Rectifiers" (2015), eq. 10, uniform.
    """
    _uniform(values, 6 / fan_in, draw)


def lecun(values: Tensor, fan_in: int, fan_out: int, draw: torch.Generator) -> None:  # noqa: ARG001 (one signature)
    """Uniform in +-sqrt(3 / fan in): variance 1 / fan in.

    Source: LeCun et al., "Efficient BackProp" (1998), section 4.6.
    """
    _uniform(values, 3 / fan_in, draw)


def ntk(values: Tensor, fan_in: int, fan_out: int, draw: torch.Generator) -> None:  # noqa: ARG001 (one signature)
    """Normal with mean 0 and standard deviation 1 / sqrt(fan in).

    The network that training starts from is that of the neural tangent kernel's parameterisation with weights of
    N(0, 1), each layer divided by sqrt(fan in), and no biases. The factor is inside the weights here, so that it does
    not scale their learning rates: the standard parameterisation.

    Source: Jacot, Gabriel and Hongler, "Neural Tangent Kernel" (2018), section 2; Sohl-Dickstein et al., "On the
    infinite width limit of neural networks with a standard parameterization" (2020).
    """
    values.normal_(0.0, 1 / math.sqrt(fan_in), generator=draw)


def pytorch(values: Tensor, fan_in: int, fan_out: int, draw: torch.Generator) -> None:  # noqa: ARG001 (one signature)
    """Uniform in +-1 / sqrt(fan in), variance 1 / (3 fan in), and the biases likewise: what `torch.nn.Linear` and
    `torch.nn.Conv2d` begin with, and with them most published networks of the field.

    Source: `reset_parameters` of both, which draw weights by `kaiming_uniform_(a=sqrt(5))`.
    """
    _uniform(values, 1 / fan_in, draw)


def _uniform(values: Tensor, square: float, draw: torch.Generator) -> None:
    limit = math.sqrt(square)
    values.uniform_(-limit, limit, generator=draw)


INITIALISATIONS: Mapping[str, Initialisation] = MappingProxyType(
    {
        "glorot": Initialisation(glorot),
        "he": Initialisation(he),
        "lecun": Initialisation(lecun),
        "ntk": Initialisation(ntk),
        "pytorch": Initialisation(pytorch, bias=pytorch),
    }
)
"""The initialisations by name."""
