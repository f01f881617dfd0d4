"""One network, written once: its layers in place, its initial parameters and its forward pass.

Engine `loop` runs this code member by member, engine `stack` runs the same code under vmap on padded parameters.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atras.errors import InputError
from atras.kernels import dropout

from .candidates import Candidate
from .layers import Dense, Layer, Own, Shape
from .randomness import initial_weights
from .stems import parse_stem, stem_name

Parameters = dict[str, Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
    "leaky-relu": F.leaky_relu,
    "softplus": F.softplus,
}
"""The activations by name, each with torch's own constants: ELU's alpha 1, the leaky ReLU's slope 0.01 below 0."""

_NOT_ZERO_AT_ZERO = ("sigmoid", "softplus")
_ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky-relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}


@dataclass(frozen=True)
class Spec:
    """The shared part of all networks of a run: image shape, classes, stem, activation and dropout.

    Args:
        image_shape: (channels, height, width).
        classes: number of logits.
        stem: layers in front of those of each candidate; also a name of `stems.STEMS`, or their spelling.
        stem_auto: whether the stem was chosen by the images, not named: then it stands before those candidates alone
            that `Candidate.takes_stem` names.
        activation: a key of `ACTIVATIONS`.
        initialisation: a key of `INITIALISATIONS`.
        head_rate256: dropout rate after every hidden layer of a candidate, in 1/256.

    Raises:
        InputError: if the stem does not fit the images.
    """

    image_shape: tuple[int, int, int]
    classes: int
    stem: tuple[Layer, ...] | str = ()
    activation: str = "relu"
    initialisation: str = "glorot"
    head_rate256: int = 0
    stem_auto: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        object.__setattr__(self, "stem", parse_stem(self.stem) if isinstance(self.stem, str) else tuple(self.stem))
        shape: Shape = self.image_shape
        try:
            for layer in self.stem_layers:
                shape = layer.output_shape(shape)
        except InputError as error:
            raise InputError(f"stem (={self.stem_name!r}): {error}; or use stem none") from None

    @property
    def stem_layers(self) -> tuple[Layer, ...]:
        """The stem's layers."""
        return self.stem  # type: ignore[return-value]  # a text has become layers

    def stem_of(self, candidate: Candidate) -> tuple[Layer, ...]:
        """The layers in front of a candidate's own: the stem, or none."""
        return () if candidate.complete or (self.stem_auto and not candidate.takes_stem) else self.stem_layers

    @property
    def stem_name(self) -> str:
        """The stem's key in `STEMS`, or the spelling of its layers."""
        return stem_name(self.stem_layers)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, from which `Spec(**values)` makes an equal one."""
        return {**vars(self), "image_shape": list(self.image_shape), "stem": self.stem_name}


class Dropout(NamedTuple):
    """The key and step by which a training step draws its dropout masks.

    Args:
        key: int64, 0-d, of one member (under vmap with the member axis in front); see `dropout_key`.
        step: int64, 0-d, training steps made in the phase.
    """

    key: Tensor
    step: Tensor


class Place(NamedTuple):
    """A layer at its place in a network.

    Args:
        name: of its parameters: the layer's kind, numbered (`conv1`), or `logits`.
        layer: what computes.
        inputs, outputs: shape of one image's values before and after it.
        rate256: of the dropout behind it, in 1/256.
        parameters: the names of its parameters, as the layer knows them and as the network does.
    """

    name: str
    layer: Layer
    inputs: Shape
    outputs: Shape
    rate256: int
    parameters: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Network:
    """One network: the stem of a run, a candidate's layers, and a dense layer to the logits.

    Args:
        spec: what it shares with the others of its run.
        candidate: what is its own.

    Raises:
        InputError: once its shapes are asked for, if a layer does not fit what comes before it.
    """

    spec: Spec
    candidate: Candidate

    @functools.cached_property
    def places(self) -> tuple[Place, ...]:
        """Every layer, the last one being that of the logits."""
        return _places(self.spec, self.candidate) if self.own is None else _own_place(self.spec, self.own)

    @property
    def own(self) -> Own | None:
        """The module of the user that the network is; None for one of layers."""
        first = self.candidate.layers[0]
        return first if isinstance(first, Own) else None

    @property
    def stem(self) -> tuple[Layer, ...]:
        """The layers in front of the candidate's own."""
        return self.spec.stem_of(self.candidate)

    @property
    def hidden(self) -> tuple[Place, ...]:
        """The layers of the stem and of the candidate."""
        return self.places[:-1]

    @functools.cached_property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Name and shape of every parameter, in the order of the layers.

        Returns:
            `convI.weight` [out, in, K, K], `denseI.weight` and `logits.weight` [out, in], and their `bias` [out]; of a
            module of the user, what it trains, under its own names.
        """
        if self.own is not None:
            return self.own.parameter_shapes(self.spec.image_shape)
        return {
            f"{place.name}.{name}": shape
            for place in self.places
            for name, shape in place.layer.parameter_shapes(place.inputs).items()
        }

    @functools.cached_property
    def state_shapes(self) -> dict[str, Shape]:
        """Name and shape of all that a network consists of: its parameters, and of a module of the user those that it
        does not train, and its buffers."""
        if self.own is None:
            return self.parameter_shapes
        found = self.own.inspect(self.spec.image_shape)
        return found.parameters | found.frozen | found.buffers

    @property
    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        return sum(math.prod(shape) for shape in self.parameter_shapes.values())

    def initial_parameters(self, seed: int, dtype: torch.dtype) -> Parameters:
        """Parameters at their initial values, drawn in double precision on the CPU, keyed by seed and candidate."""
        draw = initial_weights(seed, self.candidate.name)
        parameters: Parameters = {}
        for place in self.places:
            own = {
                name: torch.zeros(shape, dtype=torch.float64, device="cpu")
                for name, shape in place.layer.parameter_shapes(place.inputs).items()
            }
            place.layer.initialise(own, draw, self.spec.initialisation)
            parameters |= {f"{place.name}.{name}": values.to(dtype) for name, values in own.items()}
        return parameters

    def initial_state(self, seed: int, dtype: torch.dtype) -> Parameters:
        """What a member of this seed begins with, named as `state_shapes`: of layers the initial parameters, of a
        module of the user all that it consists of as it is made."""
        if self.own is None:
            return self.initial_parameters(seed, dtype)
        state = state_of(self.own.module(seed))
        return {name: values.to(dtype) if values.is_floating_point() else values for name, values in state.items()}

    def logits(
        self,
        parameters: Mapping[str, Tensor],
        images: Tensor,
        *,
        widths: Tensor | None = None,
        masks: Dropout | None = None,
    ) -> Tensor:
        """The forward pass.

        Args:
            parameters: as named by `parameter_shapes`.
            images: [B, C, H, W], float, pixels in [0, 1].
            widths: int32 [depth], the natural widths where the candidate's layers are padded; None where they are not.
            masks: dropout masks of this training step; None for evaluation.

        Returns:
            [B, Y] unnormalised log-probabilities.
        """
        activate = ACTIVATIONS[self.spec.activation]
        first = len(self.stem)
        x = images
        width = None  # of x, where it may be padded: units or channels
        for index, place in enumerate(self.hidden):
            x = place.layer.forward(_own(parameters, place), x, activate)
            if place.layer.width is not None and widths is not None and index >= first:
                width = widths[index - first]
                if self.spec.activation in _NOT_ZERO_AT_ZERO:
                    x = x * _inside(x, width)  # padding must be zero
            elif not place.layer.takes_padding:
                width = None
            if masks is not None and place.rate256:
                true_width = width if x.ndim == 2 else None
                x = dropout(x, masks.key, masks.step, layer=index, rate256=place.rate256, width=true_width)
        last = self.places[-1]
        return last.layer.forward(_own(parameters, last), x, _identity)

    def module(self, parameters: Mapping[str, Tensor]) -> nn.Sequential:
        """The network as plain torch layers in evaluation mode: pixels in [0, 1] in, logits out.

        Args:
            parameters: as named by `parameter_shapes`, which are also the module's own names.

        Returns:
            The module, on the CPU, with copies of the parameters.
        """
        if self.own is not None:
            return self._own_module(self.own, parameters)
        # Torch draws initial values, which are replaced: it shall not draw them from the caller's random numbers.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            module = nn.Sequential(self._modules()).to(next(iter(parameters.values())).dtype)
        module.load_state_dict(dict(parameters))
        return module.eval()

    def _own_module(self, own: Own, state: Mapping[str, Tensor]) -> Any:
        module = own.module(0).to(next(v.dtype for v in state.values() if v.is_floating_point()))
        fill(module, state)
        return module.eval()

    def _modules(self) -> OrderedDict[str, nn.Module]:
        """Torch's layers by name, the first of each of ours under its own."""
        activation = _ACTIVATION_MODULES[self.spec.activation]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for place in self.places:
            if len(place.inputs) == 3 and isinstance(place.layer, Dense):
                layers["flatten"] = nn.Flatten()
            for suffix, module in place.layer.modules(place.inputs, activation)[
                : 1 if place.name == "logits" else None
            ]:
                layers[f"{place.name}{suffix}"] = module
            if place.rate256:
                layers[f"{place.name}_dropout"] = nn.Dropout(place.rate256 / 256)
        return layers


def state_of(module: nn.Module) -> Parameters:
    """The parameters and buffers of a module under its own names, each once; the tensors themselves."""
    return {name: values.detach() for name, values in (*module.named_parameters(), *module.named_buffers())}


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set some of a module's parameters and buffers, as `state_of` names them."""
    own = state_of(module)
    for name, values in state.items():
        own[name].copy_(values)


def _own_place(spec: Spec, own: Own) -> tuple[Place, ...]:
    """A module of the user at its place: it is the whole network."""
    outputs = own.output_shape(spec.image_shape)
    if outputs != (spec.classes,):
        raise InputError(
            f"network {own}: expected {spec.classes} logits of an image {list(spec.image_shape)}, one a class of the "
            f"data, got {outputs[0]}; give its last layer {spec.classes} outputs"
        )
    return (_place("own1", own, spec.image_shape, outputs, 0),)


@functools.lru_cache(maxsize=4096)
def _places(spec: Spec, candidate: Candidate) -> tuple[Place, ...]:
    shape: Shape = spec.image_shape
    places: list[Place] = []
    counts: dict[str, int] = {}
    stem = spec.stem_of(candidate)
    for index, layer in enumerate((*stem, *candidate.layers)):
        own = index >= len(stem)
        counts[layer.kind] = counts.get(layer.kind, 0) + 1
        try:
            outputs = layer.output_shape(shape)
        except InputError as error:
            images = "x".join(map(str, spec.image_shape[1:]))
            raise InputError(f"hidden (={candidate.name!r}): on images of {images}: {error}") from None
        rate256 = layer.rate256 or (spec.head_rate256 if own and layer.depth else 0)
        places.append(_place(f"{layer.kind}{counts[layer.kind]}", layer.placed(shape), shape, outputs, rate256))
        shape = outputs
    logits = Dense(spec.classes)
    return (*places, _place("logits", logits, shape, logits.output_shape(shape), 0))


def _place(name: str, layer: Layer, inputs: Shape, outputs: Shape, rate256: int) -> Place:
    parameters = tuple((own, f"{name}.{own}") for own in layer.parameter_shapes(inputs))
    return Place(name, layer, inputs, outputs, rate256, parameters)


def _own(parameters: Mapping[str, Tensor], place: Place) -> dict[str, Tensor]:
    """A layer's parameters under the names that it knows them by."""
    return {own: parameters[name] for own, name in place.parameters}


def _inside(x: Tensor, width: Tensor) -> Tensor:
    """bool, shaped to multiply x [B, F] or [B, C, H, W]: which units or channels are no padding."""
    inside = torch.arange(x.shape[1], device=x.device) < width
    return inside.view(-1, *[1] * (x.ndim - 2))


def _identity(x: Tensor) -> Tensor:
    return x
