"""The residual pair: two convolutions and a way around them."""

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
class Residual(Layer):
    """Two 3x3 convolutions whose result is added to their input, then the activation.

    The activation also stands between the two. The input goes around them as it is, or through a 1x1 convolution where
    filters or size change. Spelled `r64`, with a stride `r64s2`.

    Args:
        filters: output channels of both, at least 1.
        stride: of the first, and of the way around.

    Raises:
        InputError: if a value is out of range.

    Source: He et al., "Deep Residual Learning for Image Recognition" (2016), equations 1 and 2,
    without batch normalisation.
    """

    filters: int
    stride: int = 1

    kind = "residual"
    takes_padding = False  # whether there is a 1x1 convolution depends on the channels that come in

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("filters", "stride"):
            whole(name, getattr(self, name), 1, MAX_UNITS)

    def __str__(self) -> str:
        return f"r{self.filters}" + (f"s{self.stride}" if self.stride != 1 else "")

    @classmethod
    def parse(cls, text: str) -> Residual | None:
        match = re.fullmatch(r"r(\d{1,9})(?:s(\d{1,9}))?", text, flags=re.ASCII)
        return cls(int(match[1]), int(match[2] or 1)) if match else None

    @property
    def depth(self) -> int:
        return 2

    def output_shape(self, shape: Shape) -> Shape:
        _, height, width = image_of(self, shape)
        return (self.filters, (height - 1) // self.stride + 1, (width - 1) // self.stride + 1)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {
            "first.weight": (self.filters, shape[0], 3, 3), "first.bias": (self.filters,),
            "second.weight": (self.filters, self.filters, 3, 3), "second.bias": (self.filters,),
        }  # fmt: skip
        if self._projects(shape):
            shapes |= {"projection.weight": (self.filters, shape[0], 1, 1), "projection.bias": (self.filters,)}
        return shapes

    def _projects(self, shape: Shape) -> bool:
        return self.stride != 1 or shape[0] != self.filters

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:
        import torch.nn.functional as F

        def convolved(name: str, values: Tensor, stride: int, padding: int) -> Tensor:
            weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
            return F.conv2d(values, weight, bias, stride=stride, padding=padding)

        around = convolved("projection", x, self.stride, 0) if "projection.weight" in parameters else x
        return activate(convolved("second", activate(convolved("first", x, self.stride, 1)), 1, 1) + around)

    def modules(self, shape: Shape, activation: Callable[[], nn.Module]) -> Sequence[tuple[str, nn.Module]]:
        from .torch_modules import ResidualPair

        return [("", ResidualPair(shape[0], self.filters, self.stride, activation, projects=self._projects(shape)))]

    def multiplications(self, shape: Shape) -> int:
        window = 9 * (shape[0] + self.filters) + (shape[0] if self._projects(shape) else 0)
        return window * math.prod(self.output_shape(shape))

    def kept_values(self, shape: Shape) -> int:
        return (5 if self._projects(shape) else 4) * math.prod(self.output_shape(shape))
