"""The environment of a run: device, versions, processor, kernels."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from atras.kernels import backends
from atras.kernels.fgsm.dispatch import BACKENDS as FGSM_BACKENDS

from . import gpu
from .errors import InputError
from .limits import Limit, memory
from .rounding import counted
from .torch_state import fixed_state, threads

PACKAGES = ("atras", "torch", "torchvision", "triton", "numpy", "polars")


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda`, `cuda:N` or `cuda:all` stands for here: `auto` is the first GPU that can
    be used; for all of them is planned what the first one takes.

    Raises:
        InputError: if a GPU is asked for that is not there, or cannot be used.
    """
    if name == "cpu":
        return torch.device("cpu")
    count, trouble = gpu.found()
    if name == "auto":
        gpus = (torch.device("cuda", index) for index in range(count))
        return next((each for each in gpus if not gpu.trouble(each)), torch.device("cpu"))
    number = name.partition(":")[2].replace("all", "")
    device = torch.device("cuda", int(number or 0))
    if device.index >= count:
        there = counted(count, "CUDA device") if count else f"none that torch can use{trouble and f' ({trouble})'}"
        raise InputError(f"device (={name!r}): expected a GPU of this machine, found {there}; use --device cpu or auto")
    if reason := gpu.trouble(device):
        raise InputError(f"device (={name!r}): expected a GPU that can be used, but {reason}; or use --device cpu")
    return device


def why_no_gpu() -> str:
    """Why `auto` took none of the GPUs that are there, a line for people; empty where it took one or there is none."""
    count, trouble = gpu.found()
    reasons = [gpu.trouble(torch.device("cuda", index)) for index in range(count)]
    reason = trouble if not count else reasons[0] if all(reasons) else ""
    return reason and f"the GPU is not taken: {reason}"


def attack_backend(device: torch.device, dtype: torch.dtype) -> str:
    """The backend that computes the attack on this device: `cpu`, `triton` or `reference`.

    Raises:
        InputError: if ATRAS_BACKEND asks for what is not to be had here.
    """
    try:
        return backends.choose("fgsm", FGSM_BACKENDS, device, dtype)
    except ValueError as error:
        raise InputError(str(error)) from None


def total_memory(device: torch.device) -> Limit:
    """Bytes of memory that a run may count on at the most, and what says so: the GPU, or what limits this process."""
    if device.type == "cuda":
        return gpu.room(device)
    return memory()


def versions() -> dict[str, str | None]:
    """Installed version of everything that can change a figure; None where it is not installed."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = None
    return installed


def describe(device: torch.device) -> dict[str, Any]:
    """The environment of a run, as JSON values, for `run.json`."""
    taken = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        taken = {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    usable, room = threads(), memory()
    with fixed_state(device):
        kernels = backends.report()
    return {
        "device": str(device),
        "gpu": taken,
        "cpu": {
            "model": _cpu_model(), "cores": os.cpu_count(), "threads": usable.amount, "threads_limit": usable.source,
        },
        "memory": {"usable_bytes": room.amount, "limit": room.source},
        "platform": platform.platform(),
        "versions": versions(),
        "commit": _commit(),
        "kernels": kernels,
    }  # fmt: skip


def machine_key(device: torch.device) -> str:
    """The key of a measured speed: processor, instruction set, threads, device and library versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    known = versions()
    processor = "|".join([_cpu_model(), *backends.instruction_sets()[:1]])
    return f"{processor}|{threads().amount}|{name}|torch {known['torch']}|atras {known['atras']}"


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "CPU part")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def _commit() -> str | None:
    """Commit of the source tree that atras runs from, with `-dirty` where it was changed; None outside one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
