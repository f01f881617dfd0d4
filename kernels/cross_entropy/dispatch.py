"""Op cross_entropy: what it means, its checks, its gradient, its batching rule and the choice of backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import backends, batching
from . import reference

BACKENDS = ("cpu", "triton")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """One candidate's mean softmax cross-entropy over a batch.

    The forward pass computes the loss and its gradient at once; the backward pass only scales it. Under vmap all
    candidates are computed at once, with labels that they share or not. Infinite and NaN logits give what
    `torch.nn.functional.cross_entropy` gives; of no rows the loss is NaN.

    Args:
        logits: [B, Y], floating point.
        labels: int64 [B], from 0 to Y - 1.

    Returns:
        The loss, 0-d, of the logits' dtype.

    Raises:
        ValueError: if a shape, dtype, device or (on the CPU) label is out of range; for over 16384 classes on a GPU.
    """
    _check(logits, labels)
    labels = batching.within(labels, "cross_entropy", logits.shape[1])
    backend = backends.choose("cross_entropy", BACKENDS, logits.device, logits.dtype, wide=False)
    if backend == "reference":
        return reference.cross_entropy(logits, labels)
    loss: Tensor = _CrossEntropy.apply(logits[None], labels[None], backend)[0]
    return loss[0]


class _CrossEntropy(torch.autograd.Function):
    """logits [M, B, Y], labels [M, B] or [1, B] -> losses [M], and their gradients [M, B, Y]."""

    @staticmethod
    def forward(logits: Tensor, labels: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        return (_forward_triton if backend == "triton" else _forward_cpu)(logits, labels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, gradients = output
        ctx.mark_non_differentiable(gradients)
        ctx.save_for_backward(inputs[0], gradients)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        logits, gradients = ctx.saved_tensors
        return batching.summed(_Scaled.apply(gradient, gradients, logits), logits), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        merged = batching.merge(info.batch_size, in_dims[:2], inputs[:2])
        return batching.split(info.batch_size, _CrossEntropy.apply(*merged, inputs[2]))


class _Scaled(torch.autograd.Function):
    """gradient [M] times gradients [M, B, Y]. It takes the logits, so that a second derivative is refused, not zero."""

    @staticmethod
    def forward(gradient: Tensor, gradients: Tensor, logits: Tensor) -> Tensor:
        return gradient[:, None, None] * gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.op = "cross_entropy"

    backward = staticmethod(batching.last)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        (found,), (dim,) = batching.split(
            info.batch_size, [_Scaled.apply(*batching.merge(info.batch_size, in_dims, inputs))]
        )
        return found, dim


def _forward_cpu(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    members = max(len(logits), len(labels))
    logits, labels = logits.expand(members, *logits.shape[1:]).contiguous(), labels.contiguous()
    losses, gradients = torch.empty(members), torch.empty_like(logits)
    pointers = (tensor.data_ptr() for tensor in (logits, labels, losses, gradients))
    how = (torch.get_num_threads(), backends.INSTRUCTIONS)
    backends.cpu_extension().cross_entropy(*pointers, len(labels) == 1, *logits.shape, *how)
    return losses, gradients


def _forward_triton(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    from . import gpu_triton

    logits = logits.expand(max(len(logits), len(labels)), *logits.shape[1:])
    return gpu_triton.cross_entropy(logits, labels[0] if len(labels) == 1 else labels)


def _check(logits: Tensor, labels: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = batching.shown(logits)
        raise ValueError(f"cross_entropy: expected logits [B, Y], got {got}; batch members with torch.vmap")
    batching.check_floats("cross_entropy", logits=logits)
    if not isinstance(labels, Tensor) or labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        got = batching.shown(labels)
        raise ValueError(f"cross_entropy: expected labels as int64 ({len(logits)},), got {got}; give each row one")
    batching.check_devices("cross_entropy", logits=logits, labels=labels)
    if logits.shape[1] == 0:
        raise ValueError("cross_entropy: expected logits of at least one class, got 0; give more logits")
