"""Timing two things in turn in one process, so that a busy machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

ROUNDS = 15
CALLS = 500
GEMM_SIZE = 1024
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def seconds(work: Callable[[], object], device: str) -> float:
    """Wall time of one call, the device's queue drained before and after."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait for a CUDA device; nothing on the CPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def fastest(*works: Callable[[], object], device: str) -> list[float]:
    """Each work's fastest time over rounds in which all take their turn; the first round, which warms up, apart."""
    rounds = [[seconds(work, device) for work in works] for _ in range(1 + ROUNDS)][1:]
    return [min(times) for times in zip(*rounds, strict=True)]


def fastest_launches(*works: Callable[[], object], device: str) -> list[float]:
    """As `fastest`; on a GPU of works that launch kernels and ask for no value: each as a CUDA graph of many calls, so
    that what Python takes to launch them is no part of it."""
    if device != "cuda":
        return fastest(*works, device=device)
    return [taken / CALLS for taken in fastest(*(_graph_of(work).replay for work in works), device=device)]


def _graph_of(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    work()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            work()
    return graph


def bytes_to_copy(count: int, device: str) -> torch.Tensor:
    """A filled tensor whose clone reads and writes `count` bytes together."""
    return torch.ones(count // 2, dtype=torch.uint8, device=device)


def share_of_gemm_peak(work: Callable[[], object], flops: float, device: str) -> tuple[float, float]:
    """FLOP/s of a work, and what share that is of a float32 matrix product's, both at their fastest in the same run.

    An op may skip products with zeros, which count here, so its rate can be the higher one.
    """
    matrix = torch.rand(GEMM_SIZE, GEMM_SIZE, device=device)
    ours, product = fastest(work, lambda: matrix @ matrix, device=device)
    return flops / ours, flops / ours / (2 * GEMM_SIZE**3 / product)
