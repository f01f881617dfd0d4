"""The base class of layers, and the register of layers by kind."""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from atras.checks import plain
from atras.errors import InputError, shown

from .initialisations import INITIALISATIONS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Shape = tuple[int, ...]
"""(C, H, W) of an image, (F,) of features; the batch is left out."""

Activate = Callable[["Tensor"], "Tensor"]

MAX_UNITS = 65_536
"""Most units or filters accepted: past it a typing error is likelier than a wish."""


@dataclass(frozen=True)
class Layer(ABC):
    """One layer of a network, its activation included.

    A subclass is a frozen dataclass: its fields are its options.
    """

    kind: ClassVar[str]
    """Names the layer's parameters, numbered: `conv1.weight`."""
    takes_padding: ClassVar[bool] = True
    """Whether it passes channels or features of zeros by, with which a stack fills up narrower ones."""
    complete: ClassVar[bool] = False
    """Whether it is a whole network: from images to logits, without a stem before it and a dense layer behind it."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))

    @abstractmethod
    def __str__(self) -> str:
        """The layer's spelling in a candidate's name, which `parse` reads."""

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self | None:
        """The layer that a text spells; None where it spells another kind.

        Raises:
            InputError: if it spells this kind with a value out of range.
        """

    @abstractmethod
    def output_shape(self, shape: Shape) -> Shape:
        """The shape that comes of an input of a shape.

        Raises:
            InputError: if the layer does not fit such an input; it names both.
        """

    def placed(self, inputs: Shape) -> Layer:  # noqa: ARG002 (most layers are alike everywhere)
        """The layer for inputs of a shape that it fits: with numbers in place of what follows from the shape."""
        return self

    @abstractmethod
    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Name and shape of each trained parameter, for inputs of a shape."""

    @abstractmethod
    def forward(self, parameters: Mapping[str, Tensor], x: Tensor, activate: Activate) -> Tensor:
        """Compute the layer.

        Args:
            parameters: as named by `parameter_shapes`.
            x: [B, ...], with the input's shape.
            activate: the network's activation.

        Returns:
            [B, ...], with the output's shape.
        """

    @abstractmethod
    def modules(self, shape: Shape, activation: Callable[[], nn.Module]) -> Sequence[tuple[str, nn.Module]]:
        """The layer as torch modules; the first carries the parameters under their names.

        Returns:
            (what follows the layer's name, module) pairs, such as ("", Linear), ("_activation", ReLU).
        """

    @abstractmethod
    def multiplications(self, shape: Shape) -> int:
        """Multiply-adds of one image."""

    @abstractmethod
    def kept_values(self, shape: Shape) -> int:
        """Numbers that one image's forward pass keeps for its backward pass."""

    def initialise(self, parameters: Mapping[str, Tensor], draw: torch.Generator, initialisation: str) -> None:
        """Fill the parameters with their initial values: drawn for what is named weight, and for the bias beside it
        where the initialisation draws biases; zero for the rest.

        Args:
            parameters: as named by `parameter_shapes`; float64 on the CPU, zero.
            draw: keyed by the member.
            initialisation: a key of `INITIALISATIONS`.
        """
        chosen = INITIALISATIONS[initialisation]
        for name, values in parameters.items():
            place, _, kind = name.rpartition(".")
            if kind not in {"weight", "bias"}:
                continue
            weight = parameters[f"{place}.weight" if place else "weight"]
            window = math.prod(weight.shape[2:])
            fan_out, fan_in = weight.shape[0] * window, weight.shape[1] * window
            fill = chosen.weight if kind == "weight" else chosen.bias
            if fill is not None:
                fill(values, fan_in, fan_out, draw)

    @property
    def depth(self) -> int:
        """How many hidden layers it counts as."""
        return 1

    @property
    def width(self) -> int | None:
        """Units or filters, which a stack may pad with zeros; None for a layer that must be alike in a stack."""
        return None

    def with_width(self, width: int) -> Layer:  # noqa: ARG002 (a layer without a width stays as it is)
        """The layer with another width; itself where it has none."""
        return self

    @property
    def rate256(self) -> int:
        """Rate of the dropout behind the layer, in 1/256."""
        return 0


LAYERS: dict[str, type[Layer]] = {}
"""The layers by kind. A new one is a class and a call of `register_layer`."""

_AnyLayer = TypeVar("_AnyLayer", bound=type[Layer])


def register_layer(layer: _AnyLayer) -> _AnyLayer:
    """Make a layer known, so that candidates can be spelled with it; also as a class decorator.

    Raises:
        InputError: if there is another layer of its kind.
    """
    if LAYERS.setdefault(layer.kind, layer) is not layer:
        raise InputError(f"layer kind (={layer.kind!r}): expected a new one, there are {', '.join(LAYERS)}; rename it")
    return layer


def parse_layer(text: str, name: str = "hidden", whole: str | None = None) -> Layer:
    """Read one layer, such as `24` or `c32k5p2`.

    Args:
        text: of the layer.
        name: of the option, for an error.
        whole: all that was written for the option, for an error; None for `text`.

    Raises:
        InputError: if no layer is spelled so, or a value is out of range; `name` names the option.
    """
    for layer in LAYERS.values():
        try:
            parsed = layer.parse(text.strip())
        except InputError as error:
            raise InputError(f"{name} (={shown(text)}): {error}") from None
        if parsed is not None:
            return parsed
    raise InputError(
        f"{name} (={shown(text if whole is None else whole)}): expected widths separated by commas, such as 24,192, or "
        "layers, such as c32p2,64"
    )


def begins_with_layer(text: str) -> bool:
    """Whether the first of layers with commas or hyphens between them is spelled as one, in or out of range."""
    try:
        return any(layer.parse(re.split("[,-]", text)[0].strip()) is not None for layer in LAYERS.values())
    except InputError:
        return True


def parse_layers(text: str, name: str = "hidden") -> tuple[Layer, ...]:
    """Read layers with commas or hyphens between them.

    Args:
        text: such as `24,192` or `c32p2-64`.
        name: of the option, for an error.

    Raises:
        InputError: as `parse_layer`.
    """
    return tuple(parse_layer(part, name, text) for part in re.split("[,-]", text))


def spell_layers(layers: Iterable[Layer]) -> str:
    """Layers as text, such as `24-192`, that `parse_layers` reads."""
    return "-".join(map(str, layers))


def image_of(layer: Layer, shape: Shape, side: int = 1) -> tuple[int, int, int]:
    """A shape (C, H, W) of at least so many rows and columns.

    Args:
        layer: that wants an image.
        shape: of what it gets.
        side: least rows and columns.

    Raises:
        InputError: if the shape is another; it names layer and sizes.
    """
    if len(shape) != 3:
        raise InputError(f"{layer}: expected an image, got {shape[0]} features; put it before dense layers")
    if min(shape[1:]) < side:
        raise InputError(
            f"{layer}: expected an image of at least {side}x{side}, got {shape[1]}x{shape[2]}; leave out layers before "
            "it"
        )
    return (shape[0], shape[1], shape[2])


def plain_number(value: float) -> str:
    """A number without an exponent, whose hyphen would end the layer in a candidate's name."""
    return f"{Decimal(repr(value)):f}"
