"""Machines that are not here: their spelling, what they can do, and how fast that is by whose word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from atras.errors import InputError, shown

GIB = 2**30

MOST = 1_000_000
"""Most machines that are priced."""


class Gpu(NamedTuple):
    """A GPU by its data sheet.

    Args:
        memory_bytes: that it has.
        fp32, tf32, bf16: FLOPs a second, without sparsity.
        source: the data sheet.
    """

    memory_bytes: int
    fp32: float
    tf32: float
    bf16: float
    source: str


GPUS = {
    "h100": Gpu(80 * GIB, 67e12, 494e12, 989e12, "NVIDIA, H100 SXM"),
    "h200": Gpu(141 * GIB, 67e12, 494e12, 989e12, "NVIDIA, H200 SXM"),
    "a100": Gpu(80 * GIB, 19.5e12, 156e12, 312e12, "NVIDIA, A100 80GB SXM"),
    "l4": Gpu(24 * GIB, 30.3e12, 60e12, 121e12, "NVIDIA, L4"),
}
"""By the name that follows `cuda:`."""


@dataclass(frozen=True)
class Machines:
    """Equal machines, each of which computes a group at a time.

    Args:
        count: how many.
        kind: `cpu` or `cuda`.
        threads: that compute, of a CPU; 1 of a GPU.
        gpu: which; None of a CPU.
    """

    count: int
    kind: str
    threads: int = 1
    gpu: str | None = None

    @property
    def name(self) -> str:
        """One of them, such as `cuda:h100` or `cpu:2`."""
        return f"{self.kind}:{self.threads if self.gpu is None else self.gpu}"

    @classmethod
    def parse(cls, text: str) -> Machines:
        """The machines that `8xcuda:h100` or `64xcpu:2` (threads) means.

        Raises:
            InputError: if it is spelled otherwise, or nobody knows the kind.
        """
        count, times, name = text.partition("x")
        kind, _, which = name.partition(":")
        known = kind == "cuda" and which in GPUS
        threads = kind == "cpu" and which.isdecimal() and 1 <= int(which) <= 4096
        if not times or not count.isdecimal() or not 1 <= int(count) <= MOST or not (known or threads):
            kinds = ", ".join(f"cuda:{gpu}" for gpu in GPUS)
            raise InputError(
                f"machines (={shown(text)}): expected how many of what, such as 8xcuda:h100 or 64xcpu:2; known are "
                f"cpu:THREADS, {kinds}"
            )
        return cls(int(count), kind, int(which) if threads else 1, which if known else None)
