"""Torch's ambient state: what atras computes neither depends on it nor changes it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch

from .limits import Limit, processors

_UNCHANGED = contextlib.nullcontext()
_backends: Any = torch.backends
_ON_A_CPU = tuple(getattr(_backends.mkldnn, kind) for kind in ("matmul", "conv", "rnn"))
_PRODUCTS = (_backends.cudnn.conv, _backends.cudnn.rnn, _backends.cuda.matmul, *_ON_A_CPU)
"""Torch's newer switches for how float32 numbers are multiplied."""


def fixed_state(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """A context in which torch computes as in a fresh process; afterwards all is as the caller had set it.

    No more threads than `threads` says, default dtype float32, default device the CPU, gradients on, no inference mode,
    no autocast, no demand for deterministic algorithms, float32 numbers multiplied as they are; on a GPU also
    repeatable convolutions. There the defaults give neither of the last two.

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
        and all(each.fp32_precision in ("none", "ieee") for each in _ON_A_CPU)
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
        stack.enter_context(exact_arithmetic() if device.type == "cuda" else whole_float32())
        if device.type == "cuda":
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
    before = cudnn.deterministic, cudnn.benchmark
    try:
        cudnn.deterministic, cudnn.benchmark = repeatable, not repeatable
        with whole_float32():
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """A context in which float32 numbers are multiplied as they are, on a GPU and on a CPU.

    Torch has switches of two generations for that. Where they disagree, reading an older one raises, which
    `torch.backends.cudnn.flags` does among others: so the older ones are set as well.
    """
    before = [each.fp32_precision for each in _PRODUCTS]
    older = _older_switches()
    try:
        _set((False, "highest"), ["ieee"] * len(_PRODUCTS))
        yield
    finally:
        _set(older, before)


def _older_switches() -> tuple[bool, str]:
    """Those for cuDNN and for matrices as the caller set them; the newer ones are changed until they agree."""
    cudnn: Any = torch.backends.cudnn
    for each in _PRODUCTS:
        each.fp32_precision = "ieee"
    matrices = torch.get_float32_matmul_precision()
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "tf32"
    try:
        allowed = bool(cudnn.allow_tf32)
    except RuntimeError:  # they disagree still
        allowed = False
    return allowed, matrices


def _set(older: tuple[bool, str], newer: Sequence[str]) -> None:
    """Set all switches. The older ones set newer ones too, so they come first."""
    cudnn: Any = torch.backends.cudnn
    cudnn.allow_tf32, matrices = older
    torch.set_float32_matmul_precision(matrices)
    for each, precision in zip(_PRODUCTS, newer, strict=True):
        each.fp32_precision = precision
