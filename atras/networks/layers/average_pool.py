"""The average pool, of windows or of whole images."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.checks import whole

from .layer import MAX_UNITS, Activate, Layer, Shape, image_of, register_layer

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_layer
@dataclass(frozen=True)
class AveragePool(Layer):
    """The mean of every window of an image, channel by channel. Spelled `a2`, by the window's side.

    Args:
        side: of the window, which is also its stride; odd rows and columns left over are dropped.

    Raises:
        InputError: if `side` is out of range.
    """

    side: int

    kind = "average"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("side", self.side, 1, MAX_UNITS)

    def __str__(self) -> str:
        return f"a{self.side}"

    @classmethod
    def parse(cls, text: str) -> AveragePool | None:
        match = re.fullmatch(r"a(\d{1,9})", text, flags=re.ASCII)
        return cls(int(match[1])) if match else None

    @property
    def depth(self) -> int:
        return 0

    def output_shape(self, shape: Shape) -> Shape:
        channels, height, width = image_of(self, shape, self.side)
        return (channels, height // self.side, width // self.side)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:  # noqa: ARG002 (it has none)
        return {}

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:  # noqa: ARG002
        import torch.nn.functional as F

        return F.avg_pool2d(x, self.side)

    def modules(
        self,
        shape: Shape,  # noqa: ARG002 (the same for all)
        activation: Callable[[], nn.Module],  # noqa: ARG002 (it has none)
    ) -> Sequence[tuple[str, nn.Module]]:
        from torch import nn

        return [("", nn.AvgPool2d(self.side))]

    def multiplications(self, shape: Shape) -> int:  # noqa: ARG002 (sums are not counted)
        return 0

    def kept_values(self, shape: Shape) -> int:
        return math.prod(self.output_shape(shape))


@register_layer
@dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """The mean of every channel of an image, as features. Spelled `ga`."""

    kind = "global_average"

    def __str__(self) -> str:
        return "ga"

    @classmethod
    def parse(cls, text: str) -> GlobalAveragePool | None:
        return cls() if text == "ga" else None

    @property
    def depth(self) -> int:
        return 0

    def output_shape(self, shape: Shape) -> Shape:
        return (image_of(self, shape)[0],)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:  # noqa: ARG002 (it has none)
        return {}

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:  # noqa: ARG002
        import torch.nn.functional as F

        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def modules(
        self,
        shape: Shape,  # noqa: ARG002 (the same for all)
        activation: Callable[[], nn.Module],  # noqa: ARG002 (it has none)
    ) -> Sequence[tuple[str, nn.Module]]:
        from torch import nn

        return [("", nn.AdaptiveAvgPool2d(1)), ("_flatten", nn.Flatten())]

    def multiplications(self, shape: Shape) -> int:  # noqa: ARG002 (sums are not counted)
        return 0

    def kept_values(self, shape: Shape) -> int:
        return shape[0]
