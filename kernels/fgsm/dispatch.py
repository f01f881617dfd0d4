"""Op fgsm: what it means, its checks, its batching rule and the choice of backend."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import backends
from . import cpu, reference

BACKENDS = ("cpu", "triton")
GRADIENT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
VALUE_DTYPES = (torch.float32, torch.float64)


class Perturbed(NamedTuple):
    """The result of `fgsm`: perturbed images (or signs), and the numbers of NaN and of exactly zero gradients."""

    values: Tensor
    nan_count: Tensor
    zero_count: Tensor


def fgsm(
    images: Tensor,
    gradients: Tensor,
    epsilon: float | Tensor,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    direction: Literal[1, -1] = 1,
    output: Literal["images", "signs"] = "images",
) -> Perturbed:
    """Move every pixel by epsilon along the sign of its gradient and clip it, in one pass.

    values = clamp(images + epsilon * direction * sign(gradients), *bounds). A NaN gradient leaves its pixel as it is
    and is counted; a NaN pixel stays NaN; epsilon 0 is the identity on pixels within bounds. The results carry no
    gradient. Under vmap, gradients and, where each member has its own, images carry the member axis.

    Args:
        images: [B, C, H, W], shared by all members and read once, or of the gradients' shape. uint8 (divided by 255,
            correctly rounded), or float32 or float64 in [0, 1].
        gradients: [B, C, H, W] for one member or [M, B, C, H, W]; the images' dtype when that is floating point.
            float16 and bfloat16 go with float32 or uint8 images, and the values are float32.
        epsilon: largest change of a pixel, in pixels of [0, 1]; at least 0. Or float64 [M], each member's own.
        bounds: lowest and highest pixel allowed.
        direction: 1 ascends (untargeted), -1 descends (targeted).
        output: `images` for the perturbed images; `signs` for direction * sign as int8, a quarter of the bytes, from
            which `apply_signs` rebuilds the images bit for bit.

    Returns:
        Perturbed(values, nan_count, zero_count): values of the gradients' shape; counts int64, scalar or [M].

    Raises:
        ValueError: if a shape, dtype, device or number is out of range.

    Source: Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples" (2015), section 4.
    """
    _check_tensors("fgsm", images, "gradients", gradients, GRADIENT_DTYPES)
    dtype = _value_dtype(images, gradients)
    epsilon = _checked_epsilon("fgsm", epsilon, gradients)
    _check_bounds("fgsm", bounds)
    if direction not in (1, -1):
        raise ValueError(f"fgsm: direction (={direction!r}): expected 1 (ascend) or -1 (descend)")
    if output not in ("images", "signs"):
        raise ValueError(f"fgsm: output (={output!r}): expected one of images, signs")
    images, members = _with_member_axis(images, gradients)
    step = (epsilon, float(bounds[0]), float(bounds[1]))
    results = _Fgsm.apply(images, members, *step, direction, None if output == "signs" else dtype)
    return Perturbed(*(value[0] for value in results)) if gradients.ndim == 4 else Perturbed(*results)


def apply_signs(
    images: Tensor,
    signs: Tensor,
    epsilon: float | Tensor,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Rebuild the images of `fgsm` from its signs, bit for bit, for this or any other epsilon.

    Args:
        images: [B, C, H, W], shared by all members, or of the signs' shape; uint8, float32 or float64.
        signs: [B, C, H, W] or [M, B, C, H, W], int8, each -1, 0 or 1.
        epsilon: largest change of a pixel, in pixels of [0, 1]; at least 0. Or float64 [M], each member's own.
        bounds: lowest and highest pixel allowed.
        dtype: of the values when the images are uint8, float32 or float64; floating-point images keep their own.

    Returns:
        clamp(images + epsilon * signs, *bounds), of the signs' shape.

    Raises:
        ValueError: if a shape, dtype, device or number is out of range.
    """
    _check_tensors("apply_signs", images, "signs", signs, (torch.int8,))
    epsilon = _checked_epsilon("apply_signs", epsilon, signs)
    _check_bounds("apply_signs", bounds)
    if dtype not in VALUE_DTYPES:
        raise ValueError(f"apply_signs: dtype (={dtype}): expected torch.float32 or torch.float64")
    dtype = images.dtype if images.dtype.is_floating_point else dtype
    images, members = _with_member_axis(images, signs)
    values = _ApplySigns.apply(images, members, epsilon, float(bounds[0]), float(bounds[1]), dtype)
    return values[0] if signs.ndim == 4 else values


class _Fgsm(torch.autograd.Function):
    """images [1, ...] (shared) or [M, ...], gradients [M, ...] -> values [M, ...], nan_count [M], zero_count [M]."""

    @staticmethod
    def forward(
        images: Tensor,
        gradients: Tensor,
        epsilon: float | Tensor,
        low: float,
        high: float,
        direction: int,
        dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        backend = backends.choose("fgsm", BACKENDS, gradients.device, dtype or torch.float32)
        if backend == "cpu":
            return cpu.fgsm(images, gradients, epsilon, low, high, direction, dtype)
        if backend == "triton":
            from . import gpu_triton

            return gpu_triton.fgsm(images, gradients, epsilon, low, high, direction, dtype)
        signs = reference.signs(gradients, direction)
        counts = reference.counts(gradients)
        return signs if dtype is None else reference.apply_signs(images, signs, epsilon, low, high, dtype), *counts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], images: Tensor, gradients: Tensor, epsilon: Any, *rest: Any
    ) -> Any:
        images, gradients = _flatten(info.batch_size, in_dims, images, gradients)
        results = _Fgsm.apply(images, gradients, _flat_numbers(info.batch_size, in_dims[2], epsilon), *rest)
        return tuple(value.unflatten(0, (info.batch_size, -1)) for value in results), (0, 0, 0)


class _ApplySigns(torch.autograd.Function):
    """images [1, ...] (shared) or [M, ...], signs [M, ...] -> values [M, ...]."""

    @staticmethod
    def forward(
        images: Tensor, signs: Tensor, epsilon: float | Tensor, low: float, high: float, dtype: torch.dtype
    ) -> Tensor:
        backend = backends.choose("apply_signs", BACKENDS, signs.device, dtype)
        if backend == "cpu":
            return cpu.apply_signs(images, signs, epsilon, low, high, dtype)
        if backend == "triton":
            from . import gpu_triton

            return gpu_triton.apply_signs(images, signs, epsilon, low, high, dtype)
        return reference.apply_signs(images, signs, epsilon, low, high, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], images: Tensor, signs: Tensor, epsilon: Any, *rest: Any
    ) -> Any:
        images, signs = _flatten(info.batch_size, in_dims, images, signs)
        epsilon = _flat_numbers(info.batch_size, in_dims[2], epsilon)
        return _ApplySigns.apply(images, signs, epsilon, *rest).unflatten(0, (info.batch_size, -1)), 0


def _with_member_axis(images: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    if directions.ndim == 4:
        return images[None], directions[None]
    return (images[None] if images.ndim == 4 else images), directions


def _flatten(size: int, in_dims: tuple[int | None, ...], images: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Merge vmap's axis into the member axis; images that no member owns keep their single copy."""
    image_dim, dim = in_dims[:2]
    directions = directions.expand(size, *directions.shape) if dim is None else directions.movedim(dim, 0)
    if image_dim is not None:
        images = images.movedim(image_dim, 0)
        images = images.expand(size, directions.shape[1], *images.shape[2:]).flatten(0, 1)
    elif images.shape[0] > 1:
        images = images.expand(size, *images.shape).flatten(0, 1)
    return images, directions.flatten(0, 1)


def _flat_numbers(size: int, dim: int | None, numbers: float | Tensor) -> float | Tensor:
    """Numbers of the members likewise; one that all have in common stays one."""
    if not isinstance(numbers, Tensor):
        return numbers
    return (numbers.expand(size, -1) if dim is None else numbers.movedim(dim, 0)).flatten()


def _value_dtype(images: Tensor, gradients: Tensor) -> torch.dtype:
    dtype = gradients.dtype if gradients.dtype in VALUE_DTYPES else torch.float32
    if images.dtype not in (torch.uint8, dtype):
        raise ValueError(
            f"fgsm: expected images of dtype uint8 or {_name(dtype)} beside {_name(gradients.dtype)} gradients, "
            f"got {_name(images.dtype)}; convert one"
        )
    return dtype


def _check_tensors(op: str, images: Tensor, name: str, other: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    for label, tensor in (("images", images), (name, other)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{op}: expected {label} as a torch tensor, got {type(tensor).__name__}")
    if other.ndim not in (4, 5):
        got = tuple(other.shape)
        raise ValueError(f"{op}: expected {name} [M, B, C, H, W] or [B, C, H, W], got {got}; reshape before the call")
    if images.shape not in (other.shape, other.shape[-4:]):
        raise ValueError(
            f"{op}: expected images {tuple(other.shape[-4:])} or of the {name}' shape, got {tuple(images.shape)} "
            f"beside {name} {tuple(other.shape)}; give both the same B, C, H, W"
        )
    if other.dtype not in dtypes:
        expected = " or ".join(map(_name, dtypes))
        raise ValueError(f"{op}: expected {name} of dtype {expected}, got {_name(other.dtype)}; convert them")
    if images.dtype not in (torch.uint8, *VALUE_DTYPES):
        raise ValueError(
            f"{op}: expected images of dtype uint8, float32 or float64, got {_name(images.dtype)}; convert them"
        )
    if images.device != other.device:
        raise ValueError(f"{op}: expected images and {name} on one device, got {images.device} and {other.device}")


def _checked_epsilon(op: str, epsilon: float | Tensor, directions: Tensor) -> float | Tensor:
    """One number, or each member's own, whose values are not looked at: a GPU would have to be waited for."""
    if isinstance(epsilon, Tensor):
        members = len(directions) if directions.ndim == 5 else 1
        if epsilon.dtype != torch.float64 or epsilon.shape != (members,):
            raise ValueError(
                f"{op}: expected epsilon as a number, or float64 [{members}], each member's own, got "
                f"{_name(epsilon.dtype)} {list(epsilon.shape)}"
            )
        return epsilon
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
        raise ValueError(f"{op}: epsilon (={epsilon!r}): expected a finite number of at least 0")
    return float(epsilon)


def _check_bounds(op: str, bounds: tuple[float, float]) -> None:
    if len(bounds) != 2 or not bounds[0] <= bounds[1]:
        raise ValueError(f"{op}: bounds (={bounds!r}): expected two numbers, the lower one first")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
