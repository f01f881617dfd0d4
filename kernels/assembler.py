"""The assembler of Triton's kernels: Triton brings two, and one of them can be wrong where the other is right.

Assemblers before 13.3 can reuse registers that an asynchronous product of capability 9 has yet to read
(triton-lang/triton#9433); Triton takes the newer one of its own for capability 10 and above alone.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

FIXED = (13, 3)
"""The first release without the fault."""
PATH = "TRITON_PTXAS_PATH"
_refused: list[str] = []


def capability(device: torch.device) -> tuple[int, int]:
    """A GPU's compute capability; zeros for what is none, or cannot be used."""
    if device.type != "cuda":
        return 0, 0
    try:
        return torch.cuda.get_device_capability(device)
    except (RuntimeError, AssertionError):  # a driver that fails
        return 0, 0


def take_newer(device: torch.device) -> bool:
    """Have kernels for capability 9 assembled by Triton's newer assembler, where its own for that has the fault.

    Not where TRITON_PTXAS_PATH names one. A driver may be too old for its code: see `take_usual`.

    Returns:
        Whether it was taken now, for the rest of the process.
    """
    if capability(device)[0] != 9 or os.environ.get(PATH):
        return False
    usual, newer = _tools()
    if newer in _refused or not release(usual) < FIXED <= release(newer):
        return False
    _take(newer)
    return True


def take_usual() -> None:
    """Triton's own choice again, because what the newer one assembles cannot be loaded here."""
    _refused.append(os.environ.pop(PATH))
    _forget()


def name(device: torch.device) -> str:
    """The assembler of a GPU's kernels, such as `ptxas 12.9.86`; empty without a GPU that can be used."""
    major, _ = capability(device)
    if not major:
        return ""
    usual, newer = _tools()
    path = newer if major >= 10 else os.environ.get(PATH) or usual
    return f"{Path(path).name} {'.'.join(map(str, release(path, 3)))}"


@cache
def release(path: str, numbers: int = 2) -> tuple[int, ...]:
    """An assembler's version; zeros where it tells none."""
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return (0,) * numbers
    found = re.search(r"\bV(\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, found.groups()[:numbers])) if found else (0,) * numbers


def _tools() -> tuple[str, str]:
    """Paths of the assemblers that come with Triton, the one below capability 10 first."""
    from triton import knobs

    return str(knobs.nvidia.ptxas.path), str(knobs.nvidia.ptxas_blackwell.path)


def _take(path: str) -> None:
    os.environ[PATH] = path
    _forget()


def _forget() -> None:
    """What Triton remembers of an assembler's version is part of its cache's keys."""
    from triton.backends.nvidia import compiler

    version: Any = compiler.get_ptxas_version
    version.cache_clear()
