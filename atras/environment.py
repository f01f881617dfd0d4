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

from .errors import InputError

PACKAGES = ("atras", "torch", "torchvision", "triton", "numpy", "polars")


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` stands for here.

    Raises:
        InputError: if a GPU is asked for that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        gpus = f"{count} CUDA device(s)" if count else "none that torch can use"
        raise InputError(f"device (={name!r}): expected a GPU of this machine, found {gpus}; use --device cpu or auto")
    return torch.device("cuda", index)


def attack_backend(device: torch.device, dtype: torch.dtype) -> str:
    """The backend that computes the attack on this device: `cpu`, `triton` or `reference`.

    Raises:
        InputError: if ATRAS_BACKEND asks for what is not to be had here.
    """
    try:
        return backends.choose("fgsm", FGSM_BACKENDS, device, dtype)
    except ValueError as error:
        raise InputError(str(error)) from None


def total_memory(device: torch.device) -> int:
    """Bytes of memory that a run may count on at the most: the GPU's, or the machine's or its control group's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _first_line(path)
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


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
    gpu = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        gpu = {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return {
        "device": str(device),
        "gpu": gpu,
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "platform": platform.platform(),
        "versions": versions(),
        "commit": _commit(),
        "kernels": backends.report(),
    }


def machine_key(device: torch.device) -> str:
    """The key of a measured speed: processor, instruction set, threads, device and library versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    known = versions()
    processor = "|".join([_cpu_model(), *backends.instruction_sets()[:1]])
    return f"{processor}|{torch.get_num_threads()}|{name}|torch {known['torch']}|atras {known['atras']}"


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


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().partition("\n")[0].strip()
    except OSError:
        return ""
