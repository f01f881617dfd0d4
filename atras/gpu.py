"""GPUs that can be used: found by torch, and each tried once before a run counts on it.

A GPU may be there and yet be of no use: a driver too old for torch, memory that other programs have taken, no C
compiler for Triton's launchers, or a cache of Triton's that cannot be written. A probe fails before a run begins.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from .limits import Limit
from .torch_state import fixed_state

PROBE_BYTES = 64 * 2**20
"""Allocated by the probe: less than any run takes, libraries included."""
FREE_SHARE = 0.6
"""Of a GPU's memory, what must be free for its whole to be counted on: plans take as much at the most."""


class Found(NamedTuple):
    """Number of GPUs that torch finds, and its words where it finds one that it cannot use."""

    gpus: int
    trouble: str


@cache
def found() -> Found:
    """The GPUs that torch finds; asked once, as torch says but once what is the matter with a driver."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Found(count, "" if count or not told else _first_line(str(told[0].message)))


@cache
def trouble(device: torch.device) -> str:
    """Why a GPU that is there cannot be used, with what to do; empty where it can. It is tried once a process."""
    reason = _tried(lambda: try_torch(device))
    return reason or ("" if os.environ.get("ATRAS_BACKEND") == "reference" else kernel_trouble(device))


@cache
def kernel_trouble(device: torch.device) -> str:
    """Why Triton can compile or launch nothing on a GPU, with what to do; empty where it can, or is not installed."""
    return "" if importlib.util.find_spec("triton") is None else _tried(lambda: try_triton(device))


def room(device: torch.device) -> Limit:
    """Bytes of a GPU's memory that a run may count on: all of it, or what is free where others have taken much."""
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)  # taken by this process, which gives it back where it is needed
    if free < FREE_SHARE * total:
        return Limit(free, f"free on the GPU, of {total / 2**20:.0f} MiB")
    return Limit(total, "the GPU")


def try_torch(device: torch.device) -> None:
    """Allocate a little and compute with it; whatever fails raises."""
    torch.zeros(PROBE_BYTES // 4, dtype=torch.float32, device=device).sum().item()


def try_triton(device: torch.device) -> None:
    """Compile a kernel that runs use and launch it, with nothing of it in a cache; whatever fails raises.

    Where Triton's newer assembler is to be taken, and its code cannot be loaded here, the usual one is.
    """
    from atras.kernels import assembler
    from atras.kernels.fgsm import gpu_triton

    newer = assembler.take_newer(device)
    try:
        _launch(device)
    except Exception:
        if not newer:
            raise
        assembler.take_usual()
        for kernel in (gpu_triton.fgsm_kernel, gpu_triton.totals_kernel):
            kernel.device_caches.clear()  # of what could not be loaded
        _launch(device)


def _launch(device: torch.device) -> None:
    from triton import knobs
    from triton.runtime import driver

    from atras.kernels.fgsm import gpu_triton

    folder = Path(knobs.cache.dir)
    folder.mkdir(parents=True, exist_ok=True)
    driver.active  # noqa: B018 (its own C, which is compiled where it is first asked for, is to stay in the cache)
    # In a new folder inside the cache: it must be writable, and a kernel from an earlier day must not pass for one that
    # can be compiled today.
    with tempfile.TemporaryDirectory(prefix="atras-probe-", dir=folder) as fresh, knobs.cache.scope():
        knobs.cache.dir = fresh
        with fixed_state(device):
            pixel = torch.zeros(1, 1, 1, 1, dtype=torch.float32, device=device)
            gpu_triton.fgsm(pixel, pixel, 0.5, 0.0, 1.0, 1, None)
            torch.cuda.synchronize(device)


def _tried(attempt: Callable[[], None]) -> str:
    """What goes wrong in an attempt, with what to do; empty where nothing does."""
    try:
        attempt()
    except Exception as error:  # compilers, drivers and allocators have errors of many kinds
        return _explained(error)
    return ""


def _explained(error: Exception) -> str:
    text = _first_line(str(error))
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text:
        return "its memory is taken by other programs; wait for them, or name another GPU with --device cuda:N"
    if "C compiler" in text or isinstance(error, FileNotFoundError | subprocess.CalledProcessError):
        return f"Triton cannot compile its launchers ({text}); install a C compiler and Python's headers, or set CC"
    if isinstance(error, OSError):
        return f"Triton's cache cannot be written ({text}); set TRITON_CACHE_DIR to a folder that can"
    return f"a first computation on it failed ({type(error).__name__}: {text}); see to its driver and to Triton"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
