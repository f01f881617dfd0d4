"""What the batching and autograd rules of the ops share: the member axis in front, or 1 where all members share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor


def merge(size: int, in_dims: Sequence[int | None], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Merge vmap's axis into the member axis; a tensor that neither has stays single.

    Args:
        size: of vmap's axis.
        in_dims: where each tensor has that axis; None where it has none.
        tensors: [M or 1, ...] beside vmap's axis; all that are not 1 agree on M. None stays None.
    """
    moved = [
        tensor if tensor is None or dim is None else tensor.movedim(dim, 0)
        for dim, tensor in zip(in_dims, tensors, strict=True)
    ]
    members = max(
        tensor.shape[dim is not None] for dim, tensor in zip(in_dims, moved, strict=True) if tensor is not None
    )
    return [
        tensor if tensor is None else _merged(tensor, dim is not None, size, members)
        for dim, tensor in zip(in_dims, moved, strict=True)
    ]


def _merged(tensor: Tensor, batched: bool, size: int, members: int) -> Tensor:
    if not batched:
        return tensor if len(tensor) == 1 else tensor.expand(size, *tensor.shape).flatten(0, 1)
    return tensor.expand(size, members, *tensor.shape[2:]).flatten(0, 1)


def split(size: int, found: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The results of a merged call as vmap wants them: its axis in front, and where it is."""
    return tuple(tensor.view(size, len(tensor) // size, *tensor.shape[1:]) for tensor in found), (0,) * len(found)


def summed(gradient: Tensor, like: Tensor) -> Tensor:
    """A gradient of every member [M, ...], added up where the members share the tensor [1, ...]."""
    return gradient if len(like) == len(gradient) else gradient.sum(0, keepdim=True)


def last(ctx: Any, *_: Any) -> NoReturn:
    """The backward of a backward pass: there is none."""
    raise ValueError(f"{ctx.op}: second derivatives are not implemented in this backend; set ATRAS_BACKEND=reference")


class _Within(torch.autograd.Function):
    """Labels as they are, once they are found to be from 0 to limit - 1."""

    @staticmethod
    def forward(labels: Tensor, op: str, limit: int) -> Tensor:
        if labels.numel() and labels.device.type == "cpu":
            low, high = (int(value) for value in labels.aminmax())
            if low < 0 or high >= limit:
                raise ValueError(f"{op}: expected labels from 0 to {limit - 1}, got {low} to {high}; give more logits")
        return labels.view_as(labels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], labels: Tensor, op: str, limit: int) -> Any:
        return _Within.apply(labels, op, limit), in_dims[0]


def within(labels: Tensor, op: str, limit: int) -> Tensor:
    """Labels that are known to be from 0 to limit - 1; under vmap too, but not on a GPU, which would have to wait.

    Raises:
        ValueError: if one is not.
    """
    checked: Tensor = _Within.apply(labels, op, limit)
    return checked


def shown(value: object) -> str:
    """Dtype and shape of a tensor, for messages."""
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def check_floats(op: str, **tensors: Tensor) -> None:
    """Raise unless all are floating point, of one dtype and on one device."""
    (first, like), *rest = tensors.items()
    if not like.dtype.is_floating_point:
        raise ValueError(
            f"{op}: expected {first} of a floating-point dtype, got {shown(like)}; convert before the call"
        )
    for name, tensor in rest:
        if tensor.dtype != like.dtype:
            raise ValueError(
                f"{op}: expected {first} and {name} of one dtype, got {shown(like)} and {shown(tensor)}; convert one"
            )
    check_devices(op, **tensors)


def check_devices(op: str, **tensors: Tensor) -> None:
    """Raise unless all tensors are on one device."""
    (first, like), *rest = tensors.items()
    for name, tensor in rest:
        if tensor.device != like.device:
            raise ValueError(f"{op}: expected {first} and {name} on one device, got {like.device} and {tensor.device}")
