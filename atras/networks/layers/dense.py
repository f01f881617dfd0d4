"""The fully connected layer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.checks import whole

from .layer import MAX_UNITS, Activate, Layer, Shape, register_layer

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_layer
@dataclass(frozen=True)
class Dense(Layer):
    """Units that each see the whole input; images are flattened, channels outermost. Spelled as a number: `24`.

    Args:
        units: at least 1.

    Raises:
        InputError: if `units` is out of range.
    """

    units: int

    kind = "dense"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("units", self.units, 1, MAX_UNITS)

    def __str__(self) -> str:
        return str(self.units)

    @classmethod
    def parse(cls, text: str) -> Dense | None:
        return cls(int(text)) if re.fullmatch(r"\d{1,9}", text, flags=re.ASCII) else None

    def output_shape(self, shape: Shape) -> Shape:  # noqa: ARG002 (any input fits)
        return (self.units,)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.units, math.prod(shape)), "bias": (self.units,)}

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:
        import torch.nn.functional as F

        return activate(F.linear(x.flatten(1), parameters["weight"], parameters["bias"]))

    def modules(self, shape: Shape, activation: Callable[[], nn.Module]) -> Sequence[tuple[str, nn.Module]]:
        from torch import nn

        return [("", nn.Linear(math.prod(shape), self.units)), ("_activation", activation())]

    def multiplications(self, shape: Shape) -> int:
        return math.prod(shape) * self.units

    def kept_values(self, shape: Shape) -> int:  # noqa: ARG002 (the input is kept by the layer before)
        return 2 * self.units

    @property
    def width(self) -> int:
        return self.units

    def with_width(self, width: int) -> Dense:
        return Dense(width)
