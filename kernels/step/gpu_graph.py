"""CUDA graphs of a step's launches: recorded once, then replayed by one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import torch

MOST = 128  # graphs that are kept: all sizes of blocks, with and without gradients, shared and own, and training's
_log = logging.getLogger("atras.kernels")


class Graphs:
    """Runs sequences of launches; one that comes again is recorded as a CUDA graph and replayed from then on.

    The first time, the launches run as they are: that compiles the kernels, which a recording cannot. A recording
    executes nothing, so no step is made twice. What the launches read and write must lie where the key says.

    Args:
        device: where the launches run; without CUDA nothing is recorded.
    """

    def __init__(self, device: torch.device) -> None:
        self.reason = "" if device.type == "cuda" else f"no CUDA graphs on device {device.type}"
        self.replays = 0
        self._device = device
        self.forget()

    def forget(self) -> None:
        """Drop all recordings, because memory moved."""
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._seen: set[Hashable] = set()

    def run(self, key: Hashable, launch: Callable[[], None]) -> None:
        """Do what `launch` does.

        Args:
            key: everything that the launches depend on but does not lie in memory, addresses included.
            launch: launches kernels; neither allocates nor synchronizes.
        """
        if self.reason or key not in self._seen:
            launch()
            if len(self._seen) >= MOST:
                self.forget()
            self._seen.add(key)
            return
        if key not in self._graphs:
            self._record(key, launch)
        if key in self._graphs:
            self._graphs[key].replay()
            self.replays += 1
        else:
            launch()

    def _record(self, key: Hashable, launch: Callable[[], None]) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                launch()
        except RuntimeError as error:
            self.reason = f"capture failed: {' '.join(str(error).split())[:200]}"
            _log.warning("step: launches are not replayed as a CUDA graph, steps take longer: %s", self.reason)
        else:
            self._graphs[key] = graph
