"""Which backends can run here, which one is chosen, and what to install when one is missing."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch

from . import assembler

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


def vendor() -> str:
    """The processor's maker as it names itself, such as `GenuineIntel`; empty where that is not known."""
    return "" if _cpu is None else str(_cpu.vendor())


class Bf16(NamedTuple):
    """How well a processor or GPU multiplies bf16 numbers.

    Args:
        there: whether it does so at all, with kernels that use it; elsewhere it is emulated.
        faster: whether training is faster than in fp32.
        reason: of `faster`, in words that stand after the precision that follows from it.
    """

    there: bool
    faster: bool
    reason: str


def bf16_on_cpu(instructions: str, maker: str) -> Bf16:
    """The rule for processors; the figures behind it are in docs/performance.md, "Which precision `auto` takes".

    Args:
        instructions: the set that the kernels use, of `instruction_sets`.
        maker: as `vendor` gives it.
    """
    if instructions == "amx":
        return Bf16(True, True, "AMX")
    if instructions != "avx512_bf16":
        return Bf16(False, False, "this processor has neither AVX512-BF16 nor AMX")
    if maker == "AuthenticAMD":
        return Bf16(True, True, "an AMD processor with AVX512-BF16")
    if maker == "GenuineIntel":
        slow = "an Intel processor with AVX512-BF16 and no AMX multiplies bf16 at half its fp32 rate"
        return Bf16(True, False, slow)
    return Bf16(True, False, f"whether AVX512-BF16 is the faster one is not known of the maker {maker or 'unknown'}")


def bf16(device: torch.device) -> Bf16:
    """How well a device multiplies bf16 numbers, with the kernels that are there."""
    backend = compiled(device)
    if reason := missing(backend, device):
        return Bf16(False, False, reason)
    if backend == "cpu":
        return bf16_on_cpu(instruction_sets()[0], vendor())
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return Bf16(True, True, "a GPU of capability 8.0 or more")
    return Bf16(False, False, "this GPU's capability is below 8.0")


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


def miscompiled(device: torch.device) -> str:
    """Why op `step` is not to be trusted on a GPU where Triton compiles it, with what to do; empty where it is.

    Before 3.9, Triton computes wrong products on capability 10.3 where two are added to one sum in a loop, as those of
    convolutions are (triton-lang/triton#10821); what it does there since then, nobody has tried.
    """
    if assembler.capability(device) != (10, 3):
        return ""
    version = _triton_version() or "0"
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= (3, 9):
        return ""
    return f"Triton {version} multiplies wrongly on GPUs of capability 10.3; install triton>=3.9, or use engine stack"


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
        there, faster, _ = bf16_on_cpu(instruction_sets()[0], vendor())
        cpu |= {"instructions": instruction_sets()[0], "vendor": vendor(), "threads": torch.get_num_threads()}
        cpu["bf16"] = {"there": there, "faster": faster}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reason = missing("triton", device)
    triton: dict[str, Any] = {"available": not reason, "version": _triton_version()}
    if reason:
        triton["reason"] = reason
    elif name := assembler.name(device):
        triton["assembler"] = name
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
