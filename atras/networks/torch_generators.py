"""Torch's own generators at a key, for code that draws from them and knows no other: modules that a user brings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def keyed(key: int, device: torch.device | None = None) -> Iterator[None]:
    """A context in which torch's generators begin at a key; what they were before is neither read nor lost.

    Args:
        key: signed 64 bits.
        device: whose generator is set besides the CPU's.
    """
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(key)
        for each in cuda:
            index = torch.cuda.current_device() if each.index is None else each.index
            torch.cuda.default_generators[index].manual_seed(key)
        yield
