"""Normalisation without statistics of a batch: of each image's own values, or by fixed numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.checks import number, whole
from atras.errors import InputError

from .layer import MAX_UNITS, Activate, Layer, Shape, image_of, plain_number, register_layer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_NUMBER = r"\d{1,9}(?:\.\d{1,400})?"
_INPUT = re.compile(rf"m({_NUMBER}(?:_{_NUMBER})*)s({_NUMBER}(?:_{_NUMBER})*)", flags=re.ASCII)


@dataclass(frozen=True)
class _Scaled(Layer):
    """Normalised values with a trained scale, 1 at first, and a trained shift, 0 at first."""

    takes_padding = False

    @property
    def depth(self) -> int:
        return 0

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def initialise(self, parameters: Mapping[str, Tensor], draw: torch.Generator, initialisation: str) -> None:  # noqa: ARG002
        parameters["weight"].fill_(1.0)

    def multiplications(self, shape: Shape) -> int:  # noqa: ARG002 (what is not a product of matrices is not counted)
        return 0

    def kept_values(self, shape: Shape) -> int:
        return 2 * math.prod(shape)


@register_layer
@dataclass(frozen=True)
class GroupNorm(_Scaled):
    """Each image's channels in groups, each group at mean 0 and variance 1; then a scale and a shift a channel.

    It is a layer of its own: behind a convolution it normalises what its activation and pool leave. Spelled `gn8`, by
    the number of groups.

    Args:
        groups: a divisor of the channels; 1 for all channels together.

    Raises:
        InputError: if `groups` is out of range.

    Source: Wu and He, "Group Normalization" (2018), eqs. 1 to 7; epsilon 1e-5.
    """

    groups: int

    kind = "groupnorm"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("groups", self.groups, 1, MAX_UNITS)

    def __str__(self) -> str:
        return f"gn{self.groups}"

    @classmethod
    def parse(cls, text: str) -> GroupNorm | None:
        match = re.fullmatch(r"gn(\d{1,9})", text, flags=re.ASCII)
        return cls(int(match[1])) if match else None

    def output_shape(self, shape: Shape) -> Shape:
        if shape[0] % self.groups:
            what = "channels" if len(shape) == 3 else "features"
            raise InputError(f"{self}: expected {what} that {self.groups} groups share evenly, got {shape[0]}")
        return shape

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (shape[0],), "bias": (shape[0],)}

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:  # noqa: ARG002
        import torch.nn.functional as F

        return F.group_norm(x, self.groups, parameters["weight"], parameters["bias"])

    def modules(
        self,
        shape: Shape,
        activation: Callable[[], nn.Module],  # noqa: ARG002 (it has none)
    ) -> Sequence[tuple[str, nn.Module]]:
        from torch import nn

        return [("", nn.GroupNorm(self.groups, shape[0]))]


@register_layer
@dataclass(frozen=True)
class LayerNorm(_Scaled):
    """All values of each image or its features at mean 0 and variance 1; then a scale and a shift a value.

    Spelled `ln`.

    Source: Ba, Kiros and Hinton, "Layer Normalization" (2016), eqs. 3 and 4; epsilon 1e-5.
    """

    kind = "layernorm"

    def __str__(self) -> str:
        return "ln"

    @classmethod
    def parse(cls, text: str) -> LayerNorm | None:
        return cls() if text == "ln" else None

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": shape, "bias": shape}

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:  # noqa: ARG002
        import torch.nn.functional as F

        return F.layer_norm(x, x.shape[1:], parameters["weight"], parameters["bias"])

    def modules(
        self,
        shape: Shape,
        activation: Callable[[], nn.Module],  # noqa: ARG002 (it has none)
    ) -> Sequence[tuple[str, nn.Module]]:
        from torch import nn

        return [("", nn.LayerNorm(shape))]


@register_layer
@dataclass(frozen=True)
class InputNorm(Layer):
    """Each channel less a mean, divided by a standard deviation: fixed numbers of the data set, which are not trained.

    Attacks go through it: they see pixels in [0, 1], and epsilons are in these. Spelled `m0.1307s0.3081`, or with a
    number for each channel, `m0.4914_0.4822_0.4465s0.2471_0.2435_0.2616`.

    Args:
        mean: of all channels, or of each; from 0 to 1e6.
        std: likewise, above 0.

    Raises:
        InputError: if a number is out of range, or there is another number of means than of standard deviations.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    kind = "inputnorm"
    takes_padding = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("mean", 0.0), ("std", 1e-6)):
            given = getattr(self, name)
            values = given if isinstance(given, tuple) else (given,)
            for value in values or (None,):
                number(name, value, low, 1e6)
            object.__setattr__(self, name, tuple(float(value) + 0.0 for value in values))
        if len(self.mean) != len(self.std):
            raise InputError(
                f"{self}: expected as many standard deviations as means, got {len(self.std)} and {len(self.mean)}"
            )

    def __str__(self) -> str:
        mean, std = ("_".join(map(plain_number, values)) for values in (self.mean, self.std))
        return f"m{mean}s{std}"

    @classmethod
    def parse(cls, text: str) -> InputNorm | None:
        match = _INPUT.fullmatch(text)
        return cls(*(tuple(map(float, part.split("_"))) for part in match.groups())) if match else None

    @property
    def depth(self) -> int:
        return 0

    def output_shape(self, shape: Shape) -> Shape:
        channels = image_of(self, shape)[0]
        if len(self.mean) not in (1, channels):
            raise InputError(
                f"{self}: expected one mean, or one for each channel ({channels}), got {len(self.mean)}; give them "
                "with _ between"
            )
        return shape

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:  # noqa: ARG002 (it has none)
        return {}

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:  # noqa: ARG002
        from .torch_modules import normalised

        return normalised(x, self.mean, self.std)

    def modules(
        self,
        shape: Shape,  # noqa: ARG002 (the same for all)
        activation: Callable[[], nn.Module],  # noqa: ARG002 (it has none)
    ) -> Sequence[tuple[str, nn.Module]]:
        from .torch_modules import Normalise

        return [("", Normalise(self.mean, self.std))]

    def multiplications(self, shape: Shape) -> int:  # noqa: ARG002 (what is not a product of matrices is not counted)
        return 0

    def kept_values(self, shape: Shape) -> int:
        return math.prod(shape)
