"""Op dense: what it means, its checks, its gradient, its batching rule and the choice of backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import backends, batching
from ..step.reference import ACTIVATIONS
from . import reference

BACKENDS = ("cpu", "triton")
SLOPES = ("sigmoid", "tanh", "gelu")  # activations whose derivative is kept; relu's is told by its result


def dense(x: Tensor, weight: Tensor, bias: Tensor, *, activation: str = "relu") -> Tensor:
    """One candidate's dense layer with bias and activation.

    Under vmap all candidates are computed at once, each with weights of its own or not, over rows that they share or
    not. A candidate's numbers depend neither on its neighbours nor on the number of threads. The C++ and Triton
    backends compute in float32.

    Args:
        x: [B, F], floating point.
        weight: [O, F], of x's dtype.
        bias: [O], likewise.
        activation: `relu`, `sigmoid`, `tanh`, `gelu` or `none`.

    Returns:
        [B, O], of x's dtype.

    Raises:
        ValueError: if a shape, dtype, device or name is out of range.
    """
    _check(x, weight, bias, activation)
    backend = backends.choose("dense", BACKENDS, x.device, x.dtype, wide=False)
    if backend == "reference":
        return reference.dense(x, weight, bias, activation)
    y: Tensor = _Dense.apply(x[None], weight[None], bias[None], activation, backend)[0]
    return y[0]


class _Dense(torch.autograd.Function):
    """x [M, B, F], weight [M, O, F], bias [M, O] -> y [M, B, O], slope likewise or empty.

    Every tensor may have 1 in place of M, where the members share it.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, activation: str, backend: str) -> tuple[Tensor, Tensor]:
        run = _forward_triton if backend == "triton" else _forward_cpu
        return run(x, weight, bias, activation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, ctx.activation, ctx.backend = inputs
        y, slope = output
        ctx.mark_non_differentiable(slope)
        ctx.save_for_backward(x, weight, bias, y, slope)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, y, slope = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[:2])
        dx, dweight, dbias = _DenseBackward.apply(gradient, x, weight, y, slope, ctx.activation, wanted, ctx.backend)
        return (
            batching.summed(dx, x) if wanted[0] else None,
            batching.summed(dweight, weight) if wanted[1] else None,
            batching.summed(dbias, bias),
            None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        found = _Dense.apply(*batching.merge(info.batch_size, in_dims[:3], inputs[:3]), *inputs[3:])
        return batching.split(info.batch_size, found)


class _DenseBackward(torch.autograd.Function):
    """gradient like y, and what forward took and gave -> dx, dweight, dbias [M, ...]; empty where not wanted."""

    @staticmethod
    def forward(
        gradient: Tensor,
        x: Tensor,
        weight: Tensor,
        y: Tensor,
        slope: Tensor,
        activation: str,
        wanted: tuple[bool, bool],
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        run = _backward_triton if backend == "triton" else _backward_cpu
        return run(gradient, x, weight, y, slope, activation, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.op = "dense"

    backward = staticmethod(batching.last)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        found = _DenseBackward.apply(*batching.merge(info.batch_size, in_dims[:5], inputs[:5]), *inputs[5:])
        return batching.split(info.batch_size, found)


def _forward_cpu(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    members = max(map(len, (x, weight, bias)))
    y = torch.empty(members, x.shape[1], weight.shape[1])
    slope = torch.empty(y.shape if activation in SLOPES else (members, 0))
    sizes = _shape(members, x, weight, len(bias) == 1, activation)
    tensors = (x.contiguous(), weight.contiguous(), bias.contiguous(), y, slope)
    backends.cpu_extension().dense_forward(sizes, *(tensor.data_ptr() for tensor in tensors))
    return y, slope


def _backward_cpu(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    slope: Tensor,
    activation: str,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    members, (batch, features), outputs = max(len(gradient), len(y)), x.shape[1:], weight.shape[1]
    gradient, y, slope = (tensor.expand(members, *tensor.shape[1:]).contiguous() for tensor in (gradient, y, slope))
    dx = torch.empty((members, batch, features) if wanted[0] else (members, 0))
    dweight = torch.empty((members, outputs, features) if wanted[1] else (members, 0))
    dbias = torch.empty(members, outputs)
    sizes = _shape(members, x, weight, True, activation)
    tensors = (gradient, x.contiguous(), weight.contiguous(), y, slope, dx, dweight, dbias)
    backends.cpu_extension().dense_backward(sizes, *(tensor.data_ptr() for tensor in tensors))
    return dx, dweight, dbias


def _forward_triton(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    from . import gpu_triton

    members = max(map(len, (x, weight, bias)))
    slope = x.new_empty((members, x.shape[1], weight.shape[1]) if activation in SLOPES else (members, 0))
    slopes = slope if activation in SLOPES else None
    return gpu_triton.forward(x, weight, bias, activation=activation, slopes=slopes), slope


def _backward_triton(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    slope: Tensor,
    activation: str,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    from . import gpu_triton

    if activation in SLOPES:
        dz = gradient * slope
    else:
        dz = gradient if activation == "none" else torch.where(y <= 0, 0.0, gradient)  # NaN lets it pass, as in torch
    dz = dz.expand(max(len(dz), len(y)), *dz.shape[1:])
    dx = gpu_triton.input_gradient(dz, weight) if wanted[0] else dz.new_empty(len(dz), 0)
    if not wanted[1]:
        return dx, dz.new_empty(len(dz), 0), dz.sum(1)
    return dx, *gpu_triton.weight_gradient(dz, x)


def _shape(members: int, x: Tensor, weight: Tensor, bias_shared: bool, activation: str) -> object:
    shared = (len(x) == 1, len(weight) == 1, bias_shared)
    kind = -1 if activation == "none" else list(ACTIVATIONS).index(activation)
    how = (torch.get_num_threads(), backends.INSTRUCTIONS)
    return backends.cpu_extension().dense_shape(*shared, members, *x.shape[1:], weight.shape[1], kind, *how)


def _check(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> None:
    expected = {"x": (x, 2, "[B, F]"), "weight": (weight, 2, "[O, F]"), "bias": (bias, 1, "[O]")}
    for name, (tensor, axes, shape) in expected.items():
        if not isinstance(tensor, Tensor) or tensor.ndim != axes:
            got = batching.shown(tensor)
            raise ValueError(f"dense: expected {name} {shape}, got {got}; batch members with torch.vmap")
    if weight.shape[1] != x.shape[1] or bias.shape != weight.shape[:1] or not weight.numel():
        raise ValueError(
            f"dense: expected weight [O, {x.shape[1]}] and bias [O] beside x {tuple(x.shape)}, got "
            f"{tuple(weight.shape)} and {tuple(bias.shape)}; make them agree"
        )
    batching.check_floats("dense", x=x, weight=weight, bias=bias)
    if activation not in (*ACTIVATIONS, "none"):
        raise ValueError(f"dense: activation (={activation!r}): expected one of {', '.join(ACTIVATIONS)}, none")
