"""Op adam: what it means, its checks and the choice of backend."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import backends, batching
from . import reference

BACKENDS = ("cpu", "triton")


def adam(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    offsets: Tensor,
    steps: Tensor,
    learning_rates: Tensor,
) -> None:
    """One Adam step (0.9, 0.999, 1e-8) of every member, in place over one flat buffer.

    Each member is updated as `torch.optim.Adam` updates it alone. The flat buffer has the member axis already, so
    there is no batching rule; and an update has no gradient.

    Args:
        parameters: [P], floating point, contiguous; changed in place.
        gradients: [P], of the parameters' dtype, contiguous.
        first: [P], likewise, first moments, zero before the first step; changed in place.
        second: [P], likewise, second moments; changed in place.
        offsets: int64 [M + 1], rising from 0 to P: member m has the slice from offsets[m] to offsets[m + 1].
        steps: int64 [M], contiguous, how many steps each member has made, at least 0; raised by one in place.
        learning_rates: float64 [M].

    Raises:
        ValueError: if a shape, dtype or device is out of range, or (on the CPU) an offset or step count; under vmap.

    Source: Kingma and Ba, "Adam" (2015), algorithm 1.
    """
    _check(parameters, gradients, first, second, offsets, steps, learning_rates)
    with torch.no_grad():
        _Adam.apply(parameters, gradients, first, second, offsets, steps, learning_rates)


class _Adam(torch.autograd.Function):
    """A function only to be told of vmap."""

    @staticmethod
    def forward(*tensors: Tensor) -> None:
        parameters, *_ = tensors
        _check_values(*tensors)
        backend = backends.choose("adam", BACKENDS, parameters.device, parameters.dtype, wide=False)
        if backend == "cpu":
            return _adam_cpu(*tensors)
        if backend == "triton":
            return _adam_triton(*tensors)
        return reference.adam(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: None) -> None:
        return

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> NoReturn:
        raise ValueError("adam: expected flat buffers of all members, got a call under vmap; call it outside")


def _adam_cpu(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    offsets: Tensor,
    steps: Tensor,
    learning_rates: Tensor,
) -> None:
    offsets, learning_rates = offsets.contiguous(), learning_rates.contiguous()
    tensors = (parameters, gradients, first, second, offsets, steps, learning_rates)
    pointers = (tensor.data_ptr() for tensor in tensors)
    backends.cpu_extension().adam(*pointers, len(steps), torch.get_num_threads(), backends.INSTRUCTIONS)
    _tell_autograd(parameters, first, second, steps)


def _adam_triton(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    offsets: Tensor,
    steps: Tensor,
    learning_rates: Tensor,
) -> None:
    from . import gpu_triton

    gpu_triton.adam(parameters, gradients, first, second, offsets, steps, learning_rates)
    steps += 1
    _tell_autograd(parameters, first, second)


def _tell_autograd(*changed: Tensor) -> None:
    """It cannot see what C++ or Triton wrote; this lets it refuse a backward pass through the old values."""
    for tensor in changed:
        torch.autograd.graph.increment_version(tensor)


def _check(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    offsets: Tensor,
    steps: Tensor,
    learning_rates: Tensor,
) -> None:
    flat = {"parameters": parameters, "gradients": gradients, "first": first, "second": second}
    for name, tensor in flat.items():
        if not isinstance(tensor, Tensor) or tensor.ndim != 1 or tensor.shape != parameters.shape:
            raise ValueError(f"adam: expected {name} [P] like parameters, got {batching.shown(tensor)}; flatten it")
        if not tensor.is_contiguous():
            raise ValueError(f"adam: expected {name} contiguous, got strides {tensor.stride()}; copy it first")
    batching.check_floats("adam", **flat)
    if not isinstance(steps, Tensor) or steps.ndim != 1 or steps.dtype != torch.int64 or not steps.is_contiguous():
        raise ValueError(f"adam: expected steps as int64 [M], contiguous, got {batching.shown(steps)}; convert it")
    members = len(steps)
    numbers = {
        "offsets": (offsets, torch.int64, members + 1),
        "learning_rates": (learning_rates, torch.float64, members),
    }
    for name, (tensor, dtype, size) in numbers.items():
        if not isinstance(tensor, Tensor) or tensor.shape != (size,) or tensor.dtype != dtype:
            kind = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"adam: expected {name} as {kind} ({size},) for {members} members, got {batching.shown(tensor)}"
            )
    batching.check_devices("adam", **flat, offsets=offsets, steps=steps, learning_rates=learning_rates)


def _check_values(
    parameters: Tensor, _gradients: Tensor, _first: Tensor, _second: Tensor, offsets: Tensor, steps: Tensor, _r: Tensor
) -> None:
    """On the CPU only: a GPU would have to wait."""
    if parameters.device.type != "cpu":
        return
    if offsets[0] != 0 or offsets[-1] != len(parameters) or (offsets.diff() < 0).any():
        raise ValueError(
            f"adam: expected offsets that rise from 0 to {len(parameters)}, got {offsets[0]} to {offsets[-1]}; give "
            "each member its slice"
        )
    if (steps < 0).any():
        raise ValueError(f"adam: expected steps of at least 0, got {steps.min()}; count from 0")
