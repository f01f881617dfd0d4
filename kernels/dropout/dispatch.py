"""Op dropout: what it means, its checks, its gradient, its batching rule and the choice of backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import backends
from . import cpu, reference

BACKENDS = ("cpu", "triton")


def dropout(
    x: Tensor, key: Tensor, step: Tensor | int, *, layer: int, rate256: int, width: Tensor | int | None = None
) -> Tensor:
    """Drop a share of one member's activations, chosen by a counter-based generator, and scale the rest.

    The byte drawn for a position depends on (key, step, layer, position) alone, so a padded activation gets the mask of
    the unpadded one, and the backward pass draws the mask again instead of storing it. An element is dropped when its
    byte is below `rate256`; one that is kept is multiplied by 256 / (256 - rate256).

    Bytes: Philox4x32-10 under key (low, high 32 bits of `key`) and counter (position // 16, step, layer, 0) gives 16
    bytes, little endian, word 0 first, for positions 16q to 16q + 15. A position is b * width + f for [B, F], and
    ((b * H + h) * W + w) * C + c for images, whose channels lie innermost whatever their memory format.

    Args:
        x: [B, F] or [B, C, H, W], floating point; under vmap with the member axis in front.
        key: int64, 0-d; one for each member under vmap.
        step: whole number or int64 0-d tensor, modulo 2**32. A tensor in device memory lets a captured graph move on.
        layer: which dropout of the network this is, in [0, 2**32).
        rate256: drop probability in 256ths, from 0 to 255; 0 returns x.
        width: true number of features of a padded x [B, F], 0-d; the output is 0 past it. None for all F.

    Returns:
        Tensor of x's shape and dtype.

    Raises:
        ValueError: if a shape, dtype, device or number is out of range.

    Source: Srivastava et al., "Dropout" (2014); Salmon et al., "Parallel Random Numbers" (2011).
    """
    _check(x, key, step, layer, rate256, width)
    if rate256 == 0:
        return x
    step = _scalar(step, x.device)
    width = None if width is None else _scalar(width, x.device)[None]
    return _Dropout.apply(x[None], key[None], step[None], width, layer, rate256)[0]


class _Dropout(torch.autograd.Function):
    """x [M, B, F] or [M, B, C, H, W], key [M], step [M], width [M] or None -> y like x."""

    @staticmethod
    def forward(x: Tensor, key: Tensor, step: Tensor, width: Tensor | None, layer: int, rate256: int) -> Tensor:
        backend = backends.choose("dropout", BACKENDS, x.device, x.dtype)
        if backend == "cpu":
            return cpu.dropout(x, key, step, width, layer, rate256)
        if backend == "triton":
            from . import gpu_triton

            return gpu_triton.dropout(x, key, step, width, layer, rate256)
        widths: Any = [None] * len(key) if width is None else width
        each = zip(x, key, step, widths, strict=True)
        return torch.stack([reference.dropout(x, key, step, layer, rate256, width) for x, key, step, width in each])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, key, step, width, ctx.layer, ctx.rate256 = inputs
        ctx.save_for_backward(key, step, width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        key, step, width = ctx.saved_tensors
        return _Dropout.apply(gradient, key, step, width, ctx.layer, ctx.rate256), None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        tensors = [_members(info.batch_size, dim, tensor) for dim, tensor in zip(in_dims[:4], inputs[:4], strict=True)]
        return _Dropout.apply(*tensors, *inputs[4:]).unflatten(0, (info.batch_size, -1)), 0


def _members(size: int, dim: int | None, tensor: Tensor | None) -> Tensor | None:
    """Merge vmap's axis into the member axis; what vmap does not carry is every member's."""
    if tensor is None:
        return None
    tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def _scalar(value: Tensor | int, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(torch.int64)
    return torch.full((), value, dtype=torch.int64, device=device)


def _check(x: Tensor, key: Tensor, step: Tensor | int, layer: int, rate256: int, width: Tensor | int | None) -> None:
    if not isinstance(x, Tensor) or x.ndim not in (2, 4):
        raise ValueError(f"dropout: expected x [B, F] or [B, C, H, W], got {_shown(x)}; batch members with torch.vmap")
    if not x.dtype.is_floating_point:
        raise ValueError(f"dropout: expected x of a floating-point dtype, got {_shown(x)}; convert before the call")
    if not isinstance(key, Tensor) or key.ndim != 0 or key.dtype != torch.int64:
        raise ValueError(f"dropout: expected key as int64 (), got {_shown(key)}; batch members with torch.vmap")
    for name, value in (("step", step), ("width", width)):
        if not (value is None or type(value) is int or _is_whole_scalar(value)):
            raise ValueError(f"dropout: expected {name} as a whole number or 0-d integer tensor, got {_shown(value)}")
    for name, value in (("key", key), ("step", step), ("width", width)):
        if isinstance(value, Tensor) and value.device != x.device:
            raise ValueError(f"dropout: expected x and {name} on one device, got {x.device} and {value.device}")
    if width is not None and x.ndim != 2:
        raise ValueError(f"dropout: width goes with x [B, F], got {_shown(x)}; leave it out for images")
    if type(rate256) is not int or not 0 <= rate256 <= 255:
        raise ValueError(f"dropout: rate256 (={rate256!r}): expected a whole number from 0 to 255")
    if type(layer) is not int or not 0 <= layer < 2**32:
        raise ValueError(f"dropout: layer (={layer!r}): expected a whole number from 0 to {2**32 - 1}")


def _is_whole_scalar(value: object) -> bool:
    integers = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    return isinstance(value, Tensor) and value.ndim == 0 and value.dtype in integers


def _shown(value: object) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
