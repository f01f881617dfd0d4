"""One candidate network, written once: its layers, initial weights and forward pass.

Engine `loop` runs this code member by member, engine `stack` runs the same code under vmap on padded parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from atras.errors import InputError
from atras.experiment.protocol import Protocol
from atras.kernels import dropout

from .candidates import Candidate
from .randomness import initial_weights

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Convolution:
    """A 3x3 convolution of a stem, its activation, and what may follow.

    Args:
        channels: output channels.
        padding: 1 keeps the image size ("same"), 0 shrinks it by 2 ("valid").
        pool: whether a 2x2 max-pool follows; odd rows and columns are dropped.
        rate256: dropout rate after that, in 1/256.
    """

    channels: int
    padding: int = 0
    pool: bool = False
    rate256: int = 0


STEMS: dict[str, tuple[Convolution, ...]] = {
    "none": (),
    "conv2": (Convolution(32, pool=True), Convolution(64, pool=True)),
    "conv4": (
        Convolution(32, padding=1),
        Convolution(32, pool=True, rate256=64),
        Convolution(64, padding=1),
        Convolution(64, pool=True, rate256=64),
    ),
}
"""The layers in front of the hidden ones. Source: docs/protocol.md, "Open in the paper"."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
}


@dataclass(frozen=True)
class Spec:
    """What all networks of a run share.

    Args:
        image_shape: (channels, height, width).
        classes: number of logits.
        stem: a key of `STEMS`.
        activation: a key of `ACTIVATIONS`.
        initialisation: `glorot` or `he`, uniform.
        head_rate256: dropout rate after every hidden layer, in 1/256.

    Raises:
        InputError: if the stem does not fit the images.
    """

    image_shape: tuple[int, int, int]
    classes: int
    stem: str = "none"
    activation: str = "relu"
    initialisation: str = "glorot"
    head_rate256: int = 0

    def __post_init__(self) -> None:
        if self.stem_shapes[-1][1] < 1 or self.stem_shapes[-1][2] < 1:
            side = "x".join(map(str, self.image_shape[1:]))
            raise InputError(f"stem (={self.stem!r}): expected images of at least 10x10, got {side}; use stem none")

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """The stem's layers."""
        return STEMS[self.stem]

    @property
    def stem_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(channels, height, width) of the image, then after each convolution and its pool."""
        shapes = [self.image_shape]
        for layer in self.convolutions:
            height, width = (side - 2 + 2 * layer.padding for side in shapes[-1][1:])
            shapes.append((layer.channels, *((height // 2, width // 2) if layer.pool else (height, width))))
        return tuple(shapes)

    @property
    def features(self) -> int:
        """Inputs of the first hidden layer."""
        return math.prod(self.stem_shapes[-1])


def make_spec(protocol: Protocol, image_shape: tuple[int, int, int], classes: int) -> Spec:
    """What the networks of a protocol share on images of this shape.

    Raises:
        InputError: if the stem does not fit the images.
    """
    return Spec(
        image_shape=image_shape,
        classes=classes,
        stem=choose_stem(image_shape) if protocol.stem == "auto" else protocol.stem,
        activation=protocol.activation,
        initialisation=protocol.initialisation,
        head_rate256=round(protocol.head_dropout * 256),
    )


def choose_stem(image_shape: tuple[int, int, int]) -> str:
    """The stem for images of this shape: none below 16x16, `conv2` for one channel, `conv4` for several."""
    channels, height, width = image_shape
    if min(height, width) < 16:
        return "none"
    return "conv2" if channels == 1 else "conv4"


def parameter_shapes(spec: Spec, hidden: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of a network with these hidden widths, in the order of the layers.

    Returns:
        `convI.weight` [out, in, 3, 3], `denseI.weight` and `logits.weight` [out, in], and their `bias` [out].
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for i, layer in enumerate(spec.convolutions):
        shapes[f"conv{i + 1}.weight"] = (layer.channels, spec.stem_shapes[i][0], 3, 3)
        shapes[f"conv{i + 1}.bias"] = (layer.channels,)
    widths = (spec.features, *hidden, spec.classes)
    names = [f"dense{i + 1}" for i in range(len(hidden))] + ["logits"]
    for name, (inputs, outputs) in zip(names, pairwise(widths), strict=True):
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)
    return shapes


def parameter_count(spec: Spec, hidden: tuple[int, ...]) -> int:
    """Number of trainable parameters."""
    return sum(math.prod(shape) for shape in parameter_shapes(spec, hidden).values())


def initial_parameters(spec: Spec, candidate: Candidate, seed: int, dtype: torch.dtype) -> Parameters:
    """A candidate's initial parameters: uniform weights, zero biases, drawn in double precision on the CPU.

    Source: Glorot and Bengio 2010, eq. 16 (`glorot`); He et al. 2015, eq. 10, uniform (`he`).
    """
    draw = initial_weights(seed, candidate)
    parameters: Parameters = {}
    for name, shape in parameter_shapes(spec, candidate.hidden).items():
        values = torch.zeros(shape, dtype=torch.float64)
        if name.endswith("weight"):
            window = math.prod(shape[2:])
            fan_out, fan_in = shape[0] * window, shape[1] * window
            limit = math.sqrt(6 / (fan_in + fan_out if spec.initialisation == "glorot" else fan_in))
            values.uniform_(-limit, limit, generator=draw)
        parameters[name] = values.to(dtype)
    return parameters


class Dropout(NamedTuple):
    """Which dropout masks a training step draws: int64 key (one a member) and int64 step."""

    key: Tensor
    step: Tensor


def logits(
    spec: Spec, parameters: Parameters, images: Tensor, *, widths: Tensor | None = None, masks: Dropout | None = None
) -> Tensor:
    """One network's forward pass.

    Args:
        spec: the shared shape of the networks.
        parameters: as named by `parameter_shapes`; hidden layers may be padded with zeros.
        images: [B, C, H, W], float, pixels in [0, 1].
        widths: int32 [depth], the natural widths where hidden layers are padded; None where they are not.
        masks: dropout masks of this training step; None for evaluation.

    Returns:
        [B, Y] unnormalised log-probabilities.
    """
    activate = ACTIVATIONS[spec.activation]
    x = images
    for i, layer in enumerate(spec.convolutions):
        x = F.conv2d(x, parameters[f"conv{i + 1}.weight"], parameters[f"conv{i + 1}.bias"], padding=layer.padding)
        x = activate(x)
        if layer.pool:
            x = F.max_pool2d(x, 2)
        if masks is not None and layer.rate256:
            x = dropout(x, masks.key, masks.step, layer=i, rate256=layer.rate256)
    x = x.flatten(1)
    for i, name in enumerate(_hidden_layers(parameters)):
        x = activate(F.linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"]))
        width = None if widths is None else widths[i]
        if width is not None and spec.activation == "sigmoid":
            x = x * (torch.arange(x.shape[-1], device=x.device) < width)  # sigmoid(0) is not 0: padding must be
        if masks is not None and spec.head_rate256:
            layer_index = len(spec.convolutions) + i
            x = dropout(x, masks.key, masks.step, layer=layer_index, rate256=spec.head_rate256, width=width)
    return F.linear(x, parameters["logits.weight"], parameters["logits.bias"])


def _hidden_layers(parameters: Parameters) -> Iterator[str]:
    return (name.removesuffix(".weight") for name in parameters if name.startswith("dense") and name.endswith("weight"))
