"""Dropout as a layer of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.checks import number

from .layer import Activate, Layer, Shape, plain_number, register_layer

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_layer
@dataclass(frozen=True)
class DropoutLayer(Layer):
    """Values of the layer before, pixels of the image where there is none, dropped in training. Spelled `d0.25`.

    What is dropped depends on the member, the step and the layer's place alone; the rest is scaled up.

    Args:
        share: of the values, rounded to 1/256.

    Raises:
        InputError: if `share` is out of range.

    Source: Srivastava et al., "Dropout" (2014).
    """

    share: float

    kind = "dropout"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("share", self.share, 0.0, 0.99)

    def __str__(self) -> str:
        return f"d{plain_number(float(self.share))}"

    @classmethod
    def parse(cls, text: str) -> DropoutLayer | None:
        match = re.fullmatch(r"d(0\.\d{1,400})", text, flags=re.ASCII)
        return cls(float(match[1])) if match else None

    @property
    def depth(self) -> int:
        return 0

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:  # noqa: ARG002 (it has none)
        return {}

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:  # noqa: ARG002
        return x  # the network drops what `rate256` says

    def modules(
        self,
        shape: Shape,  # noqa: ARG002 (the same for all)
        activation: Callable[[], nn.Module],  # noqa: ARG002 (it has none)
    ) -> Sequence[tuple[str, nn.Module]]:
        return []  # the network has one for `rate256`

    def multiplications(self, shape: Shape) -> int:  # noqa: ARG002 (masks are not counted)
        return 0

    def kept_values(self, shape: Shape) -> int:
        return math.prod(shape)

    @property
    def rate256(self) -> int:
        return round(self.share * 256)
