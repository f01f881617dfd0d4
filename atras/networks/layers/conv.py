"""The convolution, with its max-pool and dropout."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from atras.checks import number, whole
from atras.errors import InputError

from .layer import MAX_UNITS, Activate, Layer, Shape, image_of, plain_number, register_layer

if TYPE_CHECKING:
    from torch import Tensor, nn

_SPELLING = re.compile(
    r"c(?P<filters>\d{1,9})(k(?P<kernel>\d{1,9}))?(s(?P<stride>\d{1,9}))?(z(?P<padding>\d{1,9}|same))?(p(?P<pool>\d{1,9}|auto))?"
    r"(d(?P<dropout>0\.\d{1,400}))?",
    flags=re.ASCII,
)


@register_layer
@dataclass(frozen=True)
class Conv(Layer):
    """A convolution of images, its activation, then a max-pool and dropout where there are any.

    Spelled `c32k5s2z1p2d0.25`: filters, kernel, stride, zero padding, pool, dropout; what is as by default is left out.
    Filters alone, `c32`, spell `Conv.pooled(32)`; a convolution with all defaults is `c32k3`.

    Args:
        filters: output channels, at least 1.
        kernel: rows and columns of the window, at least 1.
        stride: pixels from one window to the next, at least 1.
        padding: rows and columns of zeros on each side; `same` keeps the image's size, with stride 1 and an odd
            kernel.
        pool: side of the max-pool's window, which is also its stride; odd rows and columns left over are dropped.
            0 for none; `auto` for 2 where the convolution leaves at least two rows and columns, else none.
        dropout: share of the outputs dropped in training, rounded to 1/256.

    Raises:
        InputError: if a value is out of range.
    """

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: int | Literal["same"] = 0
    pool: int | Literal["auto"] = 0
    dropout: float = 0.0

    kind = "conv"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("filters", "kernel", "stride"):
            whole(name, getattr(self, name), 1, MAX_UNITS)
        if self.pool != "auto":
            whole("pool", self.pool, 0, MAX_UNITS)
        if self.padding != "same":
            whole("padding", self.padding, 0, self.kernel - 1)
        elif self.stride != 1:
            raise InputError(f"stride (={self.stride}): expected 1 with padding same; give the padding as a number")
        elif self.kernel % 2 == 0:  # torch would warn of a copy
            raise InputError(
                f"kernel (={self.kernel}): expected an odd number with padding same; give the padding as a number"
            )
        number("dropout", self.dropout, 0.0, 0.99)

    @classmethod
    def pooled(cls, filters: int, kernel: int = 3) -> Conv:
        """A convolution that keeps the image's size, and a 2x2 max-pool while the image has two rows and columns.

        Of it the conv family is made: any number of them fits any image.
        """
        return cls(filters, kernel, padding="same", pool="auto")

    def __str__(self) -> str:
        if self == Conv.pooled(self.filters):
            return f"c{self.filters}"
        parts = {"k": "kernel", "s": "stride", "z": "padding", "p": "pool", "d": "dropout"}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        values = [(letter, name, getattr(self, name)) for letter, name in parts.items()]
        spelled = "".join(
            f"{letter}{plain_number(v) if isinstance(v, float) else v}"
            for letter, name, v in values
            if v != defaults[name]
        )
        return f"c{self.filters}{spelled or f'k{self.kernel}'}"

    @classmethod
    def parse(cls, text: str) -> Conv | None:
        match = _SPELLING.fullmatch(text)
        if match is None:
            return None
        given = {name: value for name, value in match.groupdict().items() if value is not None}
        if list(given) == ["filters"]:
            return cls.pooled(int(given["filters"]))
        dropout = float(given.pop("dropout", "0"))
        values: dict[str, Any] = {
            name: value if value in ("same", "auto") else int(value) for name, value in given.items()
        }
        return cls(**values, dropout=dropout)

    def placed(self, inputs: Shape) -> Conv:
        if len(inputs) != 3 or (self.padding != "same" and self.pool != "auto"):
            return self
        side = self._side(*self._convolved(inputs))
        return dataclasses.replace(self, padding=self._zeros, pool=side if side > 1 else 0)

    @property
    def _zeros(self) -> int:
        """Rows and columns of zeros on each side."""
        return self.kernel // 2 if self.padding == "same" else self.padding

    def output_shape(self, shape: Shape) -> Shape:
        image_of(self, shape)
        height, width = self._convolved(shape)
        side = self._side(height, width)
        height, width = height // side, width // side
        if height < 1 or width < 1:
            least = (side - 1) * self.stride + self.kernel - 2 * self._zeros
            raise InputError(
                f"{self}: expected an image of at least {least}x{least}, got {shape[1]}x{shape[2]}; leave out layers "
                "before it"
            )
        return (self.filters, height, width)

    def _side(self, height: int, width: int) -> int:
        """Side of the pool's window behind a convolution that leaves such an image; 1 for none."""
        if self.pool == "auto":
            return 2 if min(height, width) >= 2 else 1
        return max(self.pool, 1)

    def _convolved(self, shape: Shape) -> tuple[int, int]:
        """Height and width behind the convolution, before its pool."""
        grow = 2 * self._zeros - self.kernel
        return (shape[1] + grow) // self.stride + 1, (shape[2] + grow) // self.stride + 1

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.filters, shape[0], self.kernel, self.kernel), "bias": (self.filters,)}

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:
        import torch.nn.functional as F

        x = F.conv2d(x, parameters["weight"], parameters["bias"], stride=self.stride, padding=self.padding)
        x = activate(x)
        side = self._side(*x.shape[-2:])
        return F.max_pool2d(x, side) if side > 1 else x

    def modules(self, shape: Shape, activation: Callable[[], nn.Module]) -> Sequence[tuple[str, nn.Module]]:
        from torch import nn

        convolution = nn.Conv2d(shape[0], self.filters, self.kernel, stride=self.stride, padding=self.padding)
        side = self._side(*self._convolved(shape))
        pools = [("_pool", nn.MaxPool2d(side))] if side > 1 else []
        return [("", convolution), ("_activation", activation()), *pools]

    def multiplications(self, shape: Shape) -> int:
        return self.kernel**2 * shape[0] * self.filters * math.prod(self._convolved(shape))

    def kept_values(self, shape: Shape) -> int:
        pooled = 2 * math.prod(self.output_shape(shape)) if self._side(*self._convolved(shape)) > 1 else 0
        return 2 * self.filters * math.prod(self._convolved(shape)) + pooled

    @property
    def width(self) -> int:
        return self.filters

    def with_width(self, width: int) -> Conv:
        return dataclasses.replace(self, filters=width)

    @property
    def rate256(self) -> int:
        return round(self.dropout * 256)
