"""Chunks on their way from the host to a device, while the device computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = Sequence[Tensor | None]


class Transfer:
    """To the host itself: nothing is copied."""

    def start(self, tensors: Tensors) -> Any:
        """Begin to copy tensors of the host; may be called by another thread than `finish`.

        Returns:
            What `finish` takes.
        """
        return tensors

    def finish(self, under_way: Any) -> list[Tensor | None]:
        """The tensors on the device, where what is computed from now on waits for them."""
        return list(under_way)


class PinnedTransfer(Transfer):
    """To a GPU, out of pinned memory and on a stream of its own, beside what is computed.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, tensors: Tensors) -> Any:
        pinned = [each if each is None else each.pin_memory() for each in tensors]
        with torch.cuda.stream(self._stream):
            moved = [each if each is None else each.to(self._device, non_blocking=True) for each in pinned]
            return pinned, moved, self._stream.record_event()

    def finish(self, under_way: Any) -> list[Tensor | None]:
        _, moved, done = under_way
        current = torch.cuda.current_stream(self._device)
        current.wait_event(done)
        for each in moved:
            if each is not None:
                each.record_stream(current)  # it was made on the other stream, and must not be given up before
        return list(moved)


def transfer_to(device: torch.device) -> Transfer:
    """The way of chunks to a device."""
    return PinnedTransfer(device) if device.type == "cuda" else Transfer()
