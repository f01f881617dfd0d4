"""Launches that need nothing of each other, on two streams of a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Beside:
    """A second stream beside the current one; without CUDA what is started there is done at once.

    Both ways a stream waits for the other by an event, which a CUDA graph that is being recorded takes in too. Neither
    side may allocate memory, nor write what the other one reads.

    Args:
        device: where the launches run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def start(self, launch: Callable[[], None]) -> None:
        """Do what `launch` does behind all that was launched before, beside what comes next."""
        if self._device.type != "cuda":
            launch()
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            launch()

    def join(self) -> None:
        """Let what comes next come behind what was started."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
