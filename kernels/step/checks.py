"""Checks of op step's arguments; their errors name the expected value, the given one and the remedy."""

from __future__ import annotations

import math
from collections.abc import Collection, MutableMapping, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from . import objectives, reference

CHOICES: dict[str, Collection[str]] = {
    "stem": reference.STEMS,
    "activation": reference.ACTIVATIONS,
    "optimizer": ("adam", "adamw", "sgd"),
    "precision": ("fp32", "tf32", "bf16"),
    "objective": objectives.OBJECTIVES,
}
SMALLEST_SIDE = 10  # of an image that is left with a pixel after a convolutional stem
MOST_POOL = 255  # pixels on a side of a pool's window behind a convolution of a network's own
MOST_PATCHES = 2**24  # values of the patches that a row of its results is made of
MOST_NUMBERS = 2**31 - 1  # of one image in a layer, or of a part of its weights' gradient, as a GPU's kernels count
MOST_CHANNELS = 31  # of an image in front of a convolutional stem


def choice(name: str, value: object) -> None:
    """One of the values of an option."""
    if not isinstance(value, str) or value not in CHOICES[name]:
        raise ValueError(f"step: {name} (={value!r}): expected one of {', '.join(CHOICES[name])}")


def whole(name: str, value: object, low: int, high: int = 2**31 - 1) -> None:
    """A whole number within [low, high]."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"step: {name} (={value!r}): expected a whole number from {low} to {high}")


def number(name: str, value: object) -> float:
    """A finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"step: {name} (={value!r}): expected a finite number of at least 0")
    return value


def recipe(label_smoothing: object, clip: object, average: object) -> None:
    """A share, a norm or None, and a decay or None."""
    if number("label_smoothing", label_smoothing) > 1:
        raise ValueError(f"step: label_smoothing (={label_smoothing!r}): expected a share from 0 to 1")
    if clip is not None:
        number("clip", clip)
    if average is not None and number("average", average) >= 1:
        raise ValueError(f"step: average (={average!r}): expected a decay from 0 to below 1, or None for none")


def population(image_shape: Sequence[int], stem: str, hidden: Sequence[Sequence[int]]) -> None:
    """Images that fit the stem, and hidden widths for at least one member."""
    if len(image_shape) != 3 or any(type(side) is not int or side < 1 for side in image_shape):
        raise ValueError(f"step: image_shape (={image_shape!r}): expected (C, H, W), each a whole number of at least 1")
    if stem != "none" and min(image_shape[1:]) < SMALLEST_SIDE:
        side = "x".join(map(str, image_shape[1:]))
        least = f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        raise ValueError(f"step: stem (={stem!r}): expected images of at least {least}, got {side}; use stem none")
    if stem != "none" and image_shape[0] > MOST_CHANNELS:
        most = f"at most {MOST_CHANNELS} channels"
        raise ValueError(f"step: stem (={stem!r}): expected images of {most}, got {image_shape[0]}; use stem none")
    if len(hidden) == 0:
        raise ValueError("step: hidden (=[]): expected the hidden widths of at least one member")
    for widths in hidden:
        for width in widths:
            whole("hidden width", width, 1)


def convolutions(
    image_shape: tuple[int, int, int], members: int, chains: Sequence[Sequence[reference.ConvLayer]], kind: str
) -> None:
    """Convolutions of each member that fit the images and, by its kind, the device."""
    if len(chains) != members:
        raise ValueError(f"step: convolutions: expected those of {members} members, got {len(chains)}")
    for chain in chains:
        if reason := why_no_chain(image_shape, chain, kind):
            raise ValueError(f"step: convolutions: {reason}")


def why_no_chain(image_shape: tuple[int, int, int], chain: Sequence[reference.ConvLayer], kind: str = "cpu") -> str:
    """Why convolutions cannot be computed on a kind of device, `cpu` or `cuda`; empty where they can."""
    channels, height, width = image_shape
    for layer in chain:
        for name, value in layer._asdict().items():
            low = 1 if name in ("filters", "kernel", "stride") else 0
            high = {"pool": MOST_POOL, "rate256": 255, "padding": layer.kernel - 1}.get(name, 2**31 - 1)
            if type(value) is not int or not low <= value <= high:
                return f"expected a {name} from {low} to {high}, got {value!r}"
        sides = height, width
        height, width = layer.output_sides(height, width)
        if min(height, width) < 1:
            return f"expected images of at least a window of {layer}, got {sides[0]}x{sides[1]}"
        patches = max(layer.pool, 1) ** 2 * width * layer.kernel**2 * channels
        if patches > MOST_PATCHES:
            return f"expected at most {MOST_PATCHES} values in the patches of a row of results, got {patches}"
        if kind == "cuda" and (reason := _why_not_on_a_gpu(layer, channels, sides)):
            return reason
        channels = layer.filters
    return ""


def _why_not_on_a_gpu(layer: reference.ConvLayer, channels: int, sides: tuple[int, int]) -> str:
    """Why a GPU's kernels cannot compute a convolution of so many channels and pixels; empty where they can."""
    if layer.kernel != 3 or layer.stride != 1 or layer.padding > 1 or layer.pool > 2:
        return (
            "on a GPU it takes convolutions of kernel 3, stride 1, padding 0 or 1 and pool 2 or none, "
            f"got kernel {layer.kernel}, stride {layer.stride}, padding {layer.padding}, pool {layer.pool}"
        )
    image, wide, deep = math.prod(sides), *(-(-count // 16) * 16 for count in (channels, layer.filters))
    numbers = max(24 * wide * deep + deep, (image + 4) * max(wide, deep))
    if numbers > MOST_NUMBERS:
        return f"on a GPU it takes at most {MOST_NUMBERS} numbers in the parts of a layer, got {numbers}"
    return ""


def tensor(
    name: str,
    value: object,
    dtypes: tuple[torch.dtype, ...],
    *shapes: tuple[object, ...],
    devices: Sequence[str] = ("cpu",),
) -> None:
    """A contiguous tensor of one of the dtypes and shapes, on one of the devices; a letter stands for any size."""
    if not isinstance(value, Tensor):
        raise ValueError(f"step: expected {name} as a torch tensor, got {type(value).__name__}")
    if not any(_fits(value.shape, shape) for shape in shapes):
        expected = " or ".join(f"[{', '.join(map(str, shape))}]" for shape in shapes)
        raise ValueError(f"step: expected {name} {expected}, got {tuple(value.shape)}; reshape before the call")
    if value.dtype not in dtypes:
        expected = " or ".join(map(_name, dtypes))
        raise ValueError(f"step: expected {name} of dtype {expected}, got {_name(value.dtype)}; convert them")
    if value.device.type not in devices:
        place = "the CPU" if devices[0] == "cpu" else "the GPU"
        raise ValueError(f"step: expected {name} on {place}, got {value.device}; move it before the call")
    if not value.is_contiguous():
        raise ValueError(f"step: expected {name} contiguous, got strides {value.stride()}; call .contiguous() first")


def within(name: str, values: Tensor, limit: int, remedy: str) -> None:
    """Whole numbers from 0 to limit - 1."""
    if values.numel() == 0:
        return
    low, high = extent(values)
    if (low < 0 or high >= limit) and values._base is not None:
        low, high = _read_extent(values)  # what is out of range may be elsewhere in what this is a view of
    if low < 0 or high >= limit:
        raise ValueError(f"step: expected {name} from 0 to {limit - 1}, got {low} to {high}; {remedy}")


def extent(values: Tensor) -> tuple[int, int]:
    """Lowest and highest of whole numbers, at least one.

    On a GPU, which has to be waited for, they are those of the whole tensor that these are a view of, and remembered
    as long as it is there and not written to: calls after the first with the same labels or orders wait no more.
    """
    if not waits(values) or values.is_inference():
        return _read_extent(values)
    whole = values if values._base is None or values._base.dtype != values.dtype else values._base
    found = _EXTENTS.get(whole)
    if found is None or found[0] != whole._version:
        found = _EXTENTS[whole] = (whole._version, *_read_extent(whole))
    return found[1:]


def alike(values: Tensor) -> bool:
    """Whether whole numbers, at least one, are all the same."""
    low, high = extent(values)
    return low == high or (values._base is not None and bool((values == values[0]).all()))


def waits(values: Tensor) -> bool:
    """Whether who reads a value has to wait for its device."""
    return values.device.type != "cpu"


_EXTENTS: MutableMapping[Tensor, tuple[int, int, int]] = WeakIdKeyDictionary()  # its version, lowest and highest


def _read_extent(values: Tensor) -> tuple[int, int]:
    low, high = torch.stack(values.aminmax()).tolist()
    return low, high


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fits(got: Sequence[int], expected: Sequence[object]) -> bool:
    return len(got) == len(expected) and all(isinstance(b, str) or a == b for a, b in zip(got, expected, strict=True))
