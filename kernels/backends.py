"""Which backends can run here, which one is chosen, and what to install when one is missing."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

CHOICES = ("auto", "reference", "cpu", "triton")
NATURAL = {"cpu": "cpu", "cuda": "triton"}
"""The compiled backend of a type of device."""
_log = logging.getLogger("atras.kernels")


def _load() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("._cpu", __package__), ""
    except ModuleNotFoundError:
        remedy = "install a C++ compiler and the Python headers (Debian: apt install g++ python3-dev), then atras again"
        return None, f"the C++ extension is not built; {remedy}"
    except ImportError as error:
        return None, f"the C++ extension does not load ({error}); install atras again"


_cpu, _cpu_missing = _load()


def cpu_extension() -> Any:
    """The compiled module `_cpu`.

    Raises:
        ValueError: if it was not built.
    """
    if _cpu is None:
        raise ValueError(f"backend cpu: {_cpu_missing}")
    return _cpu


def instruction_sets() -> list[str]:
    """The instruction sets of the C++ that this CPU runs, from the one that all ops use; empty without the extension.

    The last one, `amx_emulated`, is for tests alone.
    """
    return [] if _cpu is None else list(_cpu.instruction_sets())


def interpreting() -> bool:
    """Whether Triton kernels run in its interpreter, which needs no GPU."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def compiled(device: torch.device) -> str:
    """The compiled backend for a device: `triton` on CUDA, or where ATRAS_BACKEND asks for it; else `cpu`."""
    return "triton" if os.environ.get("ATRAS_BACKEND") == "triton" else NATURAL.get(device.type, "cpu")


def missing(backend: str, device: torch.device) -> str:
    """Why a backend cannot run on a device, with what to do; empty when it can.

    Args:
        backend: `cpu` or `triton`.
        device: of the tensors.
    """
    if backend == "cpu":
        if device.type != "cpu":
            return f"it takes tensors on the CPU, got {device.type}; move them or set ATRAS_BACKEND=auto"
        return _cpu_missing
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; run pip install triton (Linux)"
    if device.type != "cuda" and not interpreting():
        return f"it takes tensors on a CUDA device, got {device.type}; move them or set ATRAS_BACKEND=auto"
    return ""


def require(op: str, device: torch.device) -> str:
    """The backend of an op that has none in plain torch: the compiled one for the device.

    Raises:
        ValueError: if it cannot run here.
    """
    backend = compiled(device)
    if reason := missing(backend, device):
        raise ValueError(f"{op}: {reason}")
    return backend


def choose(op: str, backends: Sequence[str], device: torch.device, dtype: torch.dtype) -> str:
    """The backend an op runs on, as ATRAS_BACKEND (auto, reference, cpu, triton) asks.

    `auto` takes `triton` on CUDA devices and `cpu` on the CPU where they are there and know the dtype, else
    `reference`, and logs the reason once.

    Args:
        op: name of the op, for messages.
        backends: the ones the op has beside `reference`.
        device: of the tensors.
        dtype: of the op's floating-point tensors; the C++ knows float32 and float64, Triton every dtype.

    Returns:
        `reference`, `cpu` or `triton`.

    Raises:
        ValueError: if ATRAS_BACKEND is unknown, or names a backend that cannot run here.
    """
    asked = os.environ.get("ATRAS_BACKEND", "") or "auto"
    if asked not in CHOICES:
        raise ValueError(f"ATRAS_BACKEND (={asked!r}): expected one of {', '.join(CHOICES)}")
    if asked == "reference":
        return asked
    backend = NATURAL.get(device.type) if asked == "auto" else asked
    if backend is None or backend not in backends:
        reason = f"there is no backend for device {device.type}"
    else:
        reason = missing(backend, device) or _wrong_dtype(backend, dtype)
    if not reason:
        return str(backend)
    if asked != "auto":
        raise ValueError(f"{op}: ATRAS_BACKEND={asked}: {reason}")
    _log_once(f"{op}: plain torch is used: {reason}")
    return "reference"


def report() -> dict[str, Any]:
    """The setting, and for each backend its abilities or the reason why it is missing, as JSON values."""
    cpu: dict[str, Any] = {"available": _cpu is not None}
    if _cpu is None:
        cpu["reason"] = _cpu_missing
    else:
        cpu |= {"instructions": instruction_sets()[0], "threads": torch.get_num_threads()}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reason = missing("triton", device)
    triton: dict[str, Any] = {"available": not reason, "version": _triton_version()}
    if reason:
        triton["reason"] = reason
    return {"asked": os.environ.get("ATRAS_BACKEND", "") or "auto", "cpu": cpu, "triton": triton}


def _wrong_dtype(backend: str, dtype: torch.dtype) -> str:
    if backend == "cpu" and dtype not in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        return f"backend cpu computes in float32 or float64, got {name}; convert first"
    return ""


def _triton_version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triton")
    except PackageNotFoundError:
        return None


@functools.cache
def _log_once(message: str) -> None:
    _log.warning(message)
