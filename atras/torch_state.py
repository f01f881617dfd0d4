"""Torch's ambient state: what atras computes neither depends on it nor changes it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from .limits import Limit, processors

_UNCHANGED = contextlib.nullcontext()


def fixed_state(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """A context in which torch computes as in a fresh process; afterwards all is as the caller had set it.

    No more threads than `threads` says, default dtype float32, default device the CPU, gradients on, no inference mode,
    no autocast, no demand for deterministic algorithms; on a GPU also full float32 and repeatable convolutions, where
    the defaults give neither.

    Args:
        device: where is computed.
    """
    # Engines enter it at every call: where nothing differs it must cost next to nothing.
    return _UNCHANGED if device.type == "cpu" and _is_fresh() else _fixed(device)


def waits(values: torch.Tensor) -> bool:
    """Whether who reads a value, or asks how many there are of a kind, waits for all that its device has to do."""
    return values.device.type != "cpu"


def threads() -> Limit:
    """Number of threads that compute, and what decides it: never more than this process may keep busy, unless
    OMP_NUM_THREADS says so. torch itself sees no quota of a control group."""
    asked = torch.get_num_threads()
    if os.environ.get("OMP_NUM_THREADS"):
        return Limit(asked, "OMP_NUM_THREADS")
    usable = _processors()
    return usable if usable.amount <= asked else Limit(asked, "torch.get_num_threads()")


@cache
def _processors() -> Limit:
    return processors()


def _is_fresh() -> bool:
    return (
        torch.get_num_threads() == threads().amount
        and torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.get_default_dtype() == torch.float32
        and not torch.are_deterministic_algorithms_enabled()
        and torch.get_default_device().type == "cpu"
    )


@contextlib.contextmanager
def _fixed(device: torch.device) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if (usable := threads().amount) != torch.get_num_threads():
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(usable)
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        if torch.are_deterministic_algorithms_enabled():
            warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
            stack.callback(torch.use_deterministic_algorithms, True, warn_only=warn_only)
            torch.use_deterministic_algorithms(False)
        if torch.get_default_device().type != "cpu":  # a device's context slows every call in it
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", device.type):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if device.type == "cuda":
            stack.enter_context(exact_arithmetic())
            # Else gradients are computed by threads of autograd's own, which have no CUDA context at first: cuBLAS
            # warns of that and makes one.
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        yield


@contextlib.contextmanager
def exact_arithmetic(*, repeatable: bool = True) -> Iterator[None]:
    """Full float32 on a GPU.

    Args:
        repeatable: whether convolutions are, too; else whichever is the fastest is taken.
    """
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    settings: list[tuple[Any, str, Any]] = [(cudnn, "deterministic", repeatable), (cudnn, "benchmark", not repeatable)]
    # Since torch 2.9 the older switch warns, and the two must not be mixed: not even read where both were set.
    if hasattr(matmul, "fp32_precision"):
        settings += [(each, "fp32_precision", "ieee") for each in (cudnn.conv, cudnn.rnn, matmul)]
    else:
        settings += [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
