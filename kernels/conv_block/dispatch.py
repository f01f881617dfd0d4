"""Op conv_block: what it means, its checks, its gradient, its batching rule and the choice of backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backends, batching
from ..step.reference import ACTIVATIONS
from . import reference

BACKENDS = ("cpu", "triton")


class Kind(NamedTuple):
    """Everything about a block but its tensors; rate256 is 0 where nothing is dropped."""

    activation: str
    padding: int
    pool: bool
    rate256: int
    layer: int

    def result_shape(self, x: Tensor, weight: Tensor) -> tuple[int, int, int]:
        """(O, H', W') of x [..., H, W] and weight [..., O, C, 3, 3]."""
        height, width = ((side - 2 + 2 * self.padding) // (1 + self.pool) for side in x.shape[-2:])
        return weight.shape[-4], height, width


def conv_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    activation: str = "relu",
    padding: int = 0,
    pool: bool = False,
    rate256: int = 0,
    key: Tensor | None = None,
    step: Tensor | int | None = None,
    layer: int = 0,
) -> Tensor:
    """One candidate's 3x3 convolution with bias and activation, and the max-pool and dropout that may follow.

    Under vmap all candidates are computed at once, each with weights of its own or not, over images that they share or
    not. A candidate's numbers depend neither on its neighbours nor on the number of threads, but on a GPU the order in
    which a weight gradient is summed depends on how many neighbours there are. The C++ and Triton backends compute in
    float32 and return y with its channels innermost in memory, which saves the next block a copy. The C++ one
    multiplies nothing where a gradient is zero (so an infinite or NaN weight may leave a zero where the definition has
    NaN).

    Args:
        x: [B, C, H, W], floating point.
        weight: [O, C, 3, 3], of x's dtype.
        bias: [O], likewise.
        activation: `relu`, `sigmoid`, `tanh` or `gelu`.
        padding: rows and columns of zeros around the image, at least 0.
        pool: whether a 2x2 max-pool follows; odd rows and columns are dropped, and the first of equal ones wins.
        rate256: drop probability in 256ths, from 0 to 255, as op `dropout` defines it.
        key: int64, 0-d, of the dropout; None for evaluation, which drops nothing.
        step: whole number or int64 0-d tensor of the dropout; goes with `key`.
        layer: which dropout of the network this is, in [0, 2**32).

    Returns:
        [B, O, H', W'], of x's dtype.

    Raises:
        ValueError: if a shape, dtype, device or number is out of range.

    Source: Srivastava et al., "Dropout" (2014), for the dropout.
    """
    _check(x, weight, bias, key, step)
    _check_numbers(activation, padding, rate256, layer)
    kind = Kind(activation, padding, bool(pool), 0 if key is None else rate256, layer)
    if min(kind.result_shape(x, weight)[1:]) < 1:
        raise ValueError(
            f"conv_block: expected images with a pixel left after the convolution{' and pool' * kind.pool}, got "
            f"{x.shape[2]}x{x.shape[3]}; give larger ones or padding"
        )
    if kind.rate256 == 0:
        key, steps = None, None
    else:
        steps = step if isinstance(step, Tensor) else torch.full((), step or 0, dtype=torch.int64, device=x.device)
    backend = backends.choose("conv_block", BACKENDS, x.device, x.dtype, wide=False)
    if backend == "reference":
        return reference.conv_block(x, weight, bias, key, steps, *kind)
    masks = (None, None) if key is None or steps is None else (key[None], steps[None])
    y: Tensor = _ConvBlock.apply(x[None], weight[None], bias[None], *masks, kind, backend)[0]
    return y[0]


class _ConvBlock(torch.autograd.Function):
    """x [M, B, C, H, W], weight [M, O, C, 3, 3], bias [M, O], key, step [M] or None -> y, slope, argmax.

    Every tensor may have 1 in place of M, where the members share it. y [M, B, O, H', W']; slope and argmax, which are
    for the backward pass of the same backend, likewise or empty.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, key: Tensor | None, step: Tensor | None, kind: Kind, backend: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        run = _forward_triton if backend == "triton" else _forward_cpu
        return run(x, weight, bias, key, step, kind)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, _, _, ctx.kind, ctx.backend = inputs
        y, slope, argmax = output
        ctx.mark_non_differentiable(slope, argmax)
        ctx.save_for_backward(x, weight, bias, y, slope, argmax)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, *rest = ctx.saved_tensors
        wanted = (ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3]))
        dx, dweight, dbias = _ConvBlockBackward.apply(gradient, x, weight, bias, *rest, ctx.kind, wanted, ctx.backend)
        return (
            batching.summed(dx, x) if wanted[0] else None,
            batching.summed(dweight, weight) if wanted[1] else None,
            batching.summed(dbias, bias) if wanted[1] else None,
            None,
            None,
            None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        found = _ConvBlock.apply(*batching.merge(info.batch_size, in_dims[:5], inputs[:5]), *inputs[5:])
        return batching.split(info.batch_size, found)


class _ConvBlockBackward(torch.autograd.Function):
    """gradient like y, and what forward took and gave -> dx, dweight, dbias [M, ...]; empty where not wanted."""

    @staticmethod
    def forward(
        gradient: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        y: Tensor,
        slope: Tensor,
        argmax: Tensor,
        kind: Kind,
        wanted: tuple[bool, bool],
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        run = _backward_triton if backend == "triton" else _backward_cpu
        return run(gradient, x, weight, bias, y, slope, argmax, kind, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.op = "conv_block"

    backward = staticmethod(batching.last)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        found = _ConvBlockBackward.apply(*batching.merge(info.batch_size, in_dims[:7], inputs[:7]), *inputs[7:])
        return batching.split(info.batch_size, found)


def _forward_cpu(
    x: Tensor, weight: Tensor, bias: Tensor, key: Tensor | None, step: Tensor | None, kind: Kind
) -> tuple[Tensor, Tensor, Tensor]:
    members = max(len(tensor) for tensor in (x, weight, bias, key, step) if tensor is not None)
    outputs, height, width = kind.result_shape(x, weight)
    shape = (members, x.shape[1], height, width, outputs)
    y = torch.empty(shape)
    slope = torch.empty(shape if kind.activation != "relu" else (members, 0))
    argmax = torch.empty(shape if kind.pool else (members, 0), dtype=torch.uint8)
    masks = (tensor if tensor is None else tensor.contiguous() for tensor in (key, step))
    inputs = (_channels_last(x), weight.contiguous(), bias.contiguous(), *masks)
    extension = backends.cpu_extension()
    sizes = _shape(members, x, weight, bias, key, step, kind)
    extension.conv_block_forward(sizes, *map(_address, inputs), *map(_address, (y, slope, argmax)))
    return _channels_second(y), _channels_second(slope), _channels_second(argmax)


def _backward_cpu(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    y: Tensor,
    slope: Tensor,
    argmax: Tensor,
    kind: Kind,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    members, (batch, channels, height, width), outputs = max(len(gradient), len(y)), x.shape[1:], weight.shape[1]
    gradient, y, slope, argmax = (_each(tensor, members) for tensor in (gradient, y, slope, argmax))
    dx = torch.empty((members, batch, height, width, channels) if wanted[0] else (members, 0))
    dweight = torch.empty((members, outputs, channels, 3, 3) if wanted[1] else (members, 0))
    dbias = torch.empty((members, outputs) if wanted[1] else (members, 0))
    inputs = [_channels_last(gradient), _channels_last(x), weight.contiguous(), bias.contiguous()]
    inputs += [_channels_last(tensor) for tensor in (y, slope, argmax)]
    sizes = _shape(members, x, weight, bias, None, None, kind)
    backends.cpu_extension().conv_block_backward(sizes, *map(_address, inputs), *map(_address, (dx, dweight, dbias)))
    return _channels_second(dx), dweight, dbias


def _forward_triton(
    x: Tensor, weight: Tensor, bias: Tensor, key: Tensor | None, step: Tensor | None, kind: Kind
) -> tuple[Tensor, Tensor, Tensor]:
    from . import gpu_triton

    members = max(len(tensor) for tensor in (x, weight, bias, key, step) if tensor is not None)
    activation, padding, pool, rate256, layer = kind
    y, saved = gpu_triton.forward_nchw(
        x[0] if len(x) == 1 else x,
        _each(weight, members),
        _each(bias, members),
        activation=activation,
        padding=padding,
        pool=pool,
        rate256=rate256,
        keys=None if key is None else _each(key, members).contiguous(),
        step=None if step is None else step.contiguous(),
        index=layer,
    )
    slope = y.new_empty(members, 0) if saved.slopes is None else saved.slopes
    return y, _channels_second(slope), _channels_second(saved.saved)


def _backward_triton(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    _bias: Tensor,
    y: Tensor,
    slope: Tensor,
    argmax: Tensor,
    kind: Kind,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    from . import gpu_triton

    members = max(len(gradient), len(y))
    activation, padding, pool, rate256, index = kind
    channels, height, width = x.shape[2:]
    layer = gpu_triton.Layer(height, width, channels, weight.shape[1], padding, pool, activation, rate256, index)
    slopes = None if slope.ndim == 2 else _channels_last(_each(slope, members))
    operands = gpu_triton.operands(x[0] if len(x) == 1 else x, _each(weight, members))
    saved = gpu_triton.Saved(layer, *operands, _channels_last(_each(argmax, members)), slopes)
    return gpu_triton.backward_nchw(_each(gradient, members), saved, wanted=wanted)


def _each(tensor: Tensor, members: int) -> Tensor:
    return tensor.expand(members, *tensor.shape[1:])


def _shape(
    members: int, x: Tensor, weight: Tensor, bias: Tensor, key: Tensor | None, step: Tensor | None, kind: Kind
) -> object:
    shared = [tensor is None or len(tensor) == 1 for tensor in (x, weight, bias, key, step)]
    sizes = (members, *x.shape[1:], weight.shape[1])
    numbers = (list(ACTIVATIONS).index(kind.activation), *kind[1:])
    how = (torch.get_num_threads(), backends.INSTRUCTIONS)
    return backends.cpu_extension().conv_block_shape(*shared, *sizes, *numbers, *how)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(2, -1).contiguous() if tensor.ndim == 5 else tensor


def _channels_second(tensor: Tensor) -> Tensor:
    return tensor.movedim(-1, 2) if tensor.ndim == 5 else tensor


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


def _check(x: Tensor, weight: Tensor, bias: Tensor, key: Tensor | None, step: Tensor | int | None) -> None:
    expected = {"x": (x, 4, "[B, C, H, W]"), "weight": (weight, 4, "[O, C, 3, 3]"), "bias": (bias, 1, "[O]")}
    for name, (tensor, axes, shape) in expected.items():
        if not isinstance(tensor, Tensor) or tensor.ndim != axes:
            got = batching.shown(tensor)
            raise ValueError(f"conv_block: expected {name} {shape}, got {got}; batch members with torch.vmap")
    if weight.shape[1:] != (x.shape[1], 3, 3) or bias.shape != weight.shape[:1] or not weight.numel():
        raise ValueError(
            f"conv_block: expected weight [O, {x.shape[1]}, 3, 3] and bias [O] beside x {tuple(x.shape)}, got "
            f"{tuple(weight.shape)} and {tuple(bias.shape)}; make them agree"
        )
    batching.check_floats("conv_block", x=x, weight=weight, bias=bias)
    if (key is None) != (step is None):
        raise ValueError("conv_block: expected key and step together, got one of them; give both, or none to evaluate")
    if key is None:
        return
    if not isinstance(key, Tensor) or key.ndim != 0 or key.dtype != torch.int64:
        got = batching.shown(key)
        raise ValueError(f"conv_block: expected key as int64 (), got {got}; batch members with torch.vmap")
    if not (type(step) is int or (isinstance(step, Tensor) and step.ndim == 0 and step.dtype == torch.int64)):
        got = batching.shown(step)
        raise ValueError(f"conv_block: expected step as a whole number or int64 (), got {got}; convert it")
    batching.check_devices("conv_block", x=x, key=key, **({"step": step} if isinstance(step, Tensor) else {}))


def _check_numbers(activation: str, padding: int, rate256: int, layer: int) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"conv_block: activation (={activation!r}): expected one of {', '.join(ACTIVATIONS)}")
    limits = {"padding": (padding, 2**15), "rate256": (rate256, 255), "layer": (layer, 2**32 - 1)}
    for name, (value, high) in limits.items():
        if type(value) is not int or not 0 <= value <= high:
            raise ValueError(f"conv_block: {name} (={value!r}): expected a whole number from 0 to {high}")
