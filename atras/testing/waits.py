"""Counts where Python would wait for a GPU, on any device."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

READS = {
    "item", "tolist", "cpu", "numpy", "nonzero", "bincount", "masked_select", "unique", "repeat_interleave", "equal",
    "__bool__", "__int__", "__float__", "__index__", "__contains__", "__array__",
}  # fmt: skip
"""Torch's functions that need to know what is in a tensor."""

CHOOSES = {"__getitem__", "__setitem__", "index_put_"}
"""Those that need to know where a mask holds."""


class Waits(TorchFunctionMode):
    """Inside it, calls of torch that would have to wait for a GPU whose tensors these were.

    `places` has the file and the line of each, from outside torch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in READS or (name in CHOOSES and _masks(args[1])):
            frames = [each for each in traceback.extract_stack() if "/torch/" not in each.filename]
            self.places.append(f"{frames[-2].filename}:{frames[-2].lineno} {name}")
        return function(*args, **(kwargs or {}))


def _masks(index: Any) -> bool:
    parts = index if isinstance(index, tuple | list) else (index,)
    return any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts)
