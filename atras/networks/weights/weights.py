"""Weights of a finished network as they came: tensors by name, or a whole program."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atras.errors import InputError, shown
from atras.networks.candidates import Candidate
from atras.storage import expanded

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of numbers that are taken as float32, or as float64 in a run that computes in that."""


@dataclass(frozen=True, eq=False)
class Weights:
    """What a file, or a module, says of one network.

    Args:
        file_format: such as `pth`; `module` where it came from a program in Python.
        sha256: of the file, or of the module's tensors.
        tensors: by name, on the CPU; none of a program.
        file: where it was read; None for a module.
        candidate: the network's layers, where the file says them.
        spec: what the file says of the network besides, such as stem and activation.
        program: makes the module of a file that is a whole program.
        notes: what was done to the content, a few words each.
    """

    file_format: str
    sha256: str
    tensors: dict[str, Tensor] = field(repr=False)
    file: str | None = None
    candidate: Candidate | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    program: Callable[[], nn.Module] | None = None
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """What messages call it."""
        return self.file or "the module"

    def record(self, network: str, folder: str | Path | None = None) -> dict[str, Any]:
        """JSON values for `run.json`.

        Args:
            network: name of the candidate that has these weights.
            folder: the run's, from which the file's second path is.
        """
        path = None if self.file is None else os.path.abspath(self.file)  # noqa: PTH100
        below = None if path is None or folder is None else os.path.relpath(path, expanded(folder))
        return {
            "network": network, "file": path, "file_from_run": below, "format": self.file_format, "sha256": self.sha256,
            "notes": list(self.notes),
        }  # fmt: skip


def weights_of(module: nn.Module) -> Weights:
    """The weights of a module as it is: its parameters and buffers."""
    tensors = {name: value.detach().cpu() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        # As bytes: numpy has no bfloat16.
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return Weights("module", digest.hexdigest(), tensors)


def usable(where: str, tensors: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors as networks here have them, and what was done to them.

    Args:
        where: what messages call their origin.
        tensors: by name.

    Raises:
        InputError: if one is of a type that no network here has, or is not finite.
    """
    made: dict[str, Tensor] = {}
    converted: set[str] = set()
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.is_meta or value.is_quantized or value.layout != torch.strided:
            kind = "a quantised or sparse tensor" if isinstance(value, Tensor) else shown(value)
            raise InputError(f"{where}: {shown(name)}: expected a tensor of plain numbers, found {kind}; convert it")
        if value.is_complex():
            raise InputError(f"{where}: {shown(name)}: expected real numbers, found {_of(value)}; convert it")
        if value.is_floating_point():
            converted |= {_of(value)} - {"float32", "float64"}
            value = value.float() if value.dtype != torch.float64 else value
            if not bool(value.isfinite().all()):
                raise InputError(
                    f"{where}: {shown(name)}: expected finite numbers, found NaN or infinity; name another file"
                )
        made[name] = value.detach().contiguous()
    return made, [f"{', '.join(sorted(converted))} converted to float32"] if converted else []


def _of(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
