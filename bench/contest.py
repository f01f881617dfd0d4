"""Atras and its peers on one population, in turn: who can take part, how equally they learn, how long they take."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atras.torch_state import exact_arithmetic
from population import Atras, Population
from stacked import JaxVmap, Vmap, VmapBf16
from textbook import (
    Contestant,
    Loop,
    LoopBf16,
    LoopChannelsLast,
    LoopCompiled,
    LoopCudaGraph,
    Task,
    training_flops,
)

PEERS: dict[str, Callable[[Task], Contestant]] = {
    "loop_fp32": Loop,
    "loop_fp32_channels_last": LoopChannelsLast,
    "loop_bf16": LoopBf16,
    "vmap_fp32": Vmap,
    "vmap_bf16": VmapBf16,
    "loop_cuda_graph": LoopCudaGraph,
    "compile_fp32": LoopCompiled,
    "jax_vmap": JaxVmap,
}
DEFAULT_PEERS = ("loop_fp32", "loop_fp32_channels_last", "loop_bf16", "vmap_fp32", "vmap_bf16")
REFERENCE = "loop_fp32"
"""The contestant whose losses the others are compared with."""

COMPILED = ("compile_fp32", "jax_vmap")
ONE_A_DEPTH = ("compile_fp32",)
"""Peers that are too slow to start for more than one candidate a depth; atras then trains the same few."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHECK_STEPS = 10
WARM_UP_STEPS = 2
STEPS, GPU_STEPS = 20, 500
"""Timed steps: on a GPU so many that what Python does before the first one and behind the last is no part of them."""

FIRST_STEPS, POPULATION = 3, 10


class Tolerance(NamedTuple):
    """Largest relative difference of a loss: in the first steps, of a population's middle network in the mean, ever."""

    first: float
    middle: float
    largest: float


TOLERANCES = {"fp32": Tolerance(1e-4, 1e-4, 1e-2), "bf16": Tolerance(2e-3, 2e-2, 1e-1)}


class Difference(NamedTuple):
    """The relative distance of a contestant's losses from the reference's, and whether it is small enough.

    Another order of summation flips a ReLU or a pooling maximum that lies within rounding of its neighbour, and Adam
    then triples the difference with every step: of the 40 networks on MNIST, the plain loop with its own weights
    changed by one part in ten million has 6 that are off by more than 1e-4 after ten steps, by up to 3e-3; the plain
    loop in bf16 has one that is off by 3e-2. So every network must agree well before that can grow, the middle one of
    a population in the mean of all steps, and every one roughly all the way.

    Args:
        precision: of the contestant.
        members: number of networks.
        first: largest of the first three steps.
        middle: mean over the steps, of the middle network.
        largest: largest of all.
    """

    precision: str
    members: int
    first: float
    middle: float
    largest: float

    @classmethod
    def of(cls, losses: Tensor, reference: Tensor, precision: str) -> Difference:
        """The difference of two [steps, M] tensors of losses."""
        each = ((losses.double() - reference.double()).abs() / reference.double().abs()).cpu()
        middle = each.mean(dim=0).median().item()
        return cls(precision, each.shape[1], each[:FIRST_STEPS].max().item(), middle, each.max().item())

    @property
    def acceptable(self) -> bool:
        """Whether the losses count as equal; not-a-number never does."""
        allowed = TOLERANCES[self.precision]
        near = self.first <= allowed.first and self.largest <= allowed.largest
        return near and (self.members < POPULATION or self.middle <= allowed.middle)


class Times(NamedTuple):
    """The measured times: seconds a step by name and round, and the best GEMM by precision in GFLOP/s."""

    seconds: dict[str, list[float]]
    peaks: dict[str, float]


class Contest:
    """Atras and some peers on one population."""

    def __init__(self, population: Population, peers: Sequence[str]) -> None:
        self.population, self.peers = population, tuple(peers)
        self.compile_seconds: dict[str, float] = {}

    def contestants(self, names: Iterable[str], *, dropout: bool) -> Iterator[tuple[str, Contestant]]:
        """Each named contestant at its initial weights, made when its turn comes."""
        task = self.population.task(dropout=dropout)
        for name in names:
            yield name, Atras(self.population, dropout=dropout) if name == "atras" else PEERS[name](task)

    def differences(self, say: Callable[[str], None]) -> dict[str, Difference]:
        """The distance of each contestant's first losses from the reference's; told is how long each one takes."""
        batches = self.population.batches(CHECK_STEPS)
        losses, differences = {}, {}
        for name, contestant in self.contestants(dict.fromkeys((REFERENCE, "atras", *self.peers)), dropout=False):
            began = time.perf_counter()
            ready = contestant.prepare(batches)
            with self._settings(name):
                start = time.perf_counter()
                first = contestant.train(ready[:1])
                if name in COMPILED:
                    self.compile_seconds[name] = time.perf_counter() - start
                losses[name] = torch.cat([first, contestant.train(ready[1:])])
            differences[name] = Difference.of(losses[name], losses[REFERENCE], contestant.precision)
            say(f"{name}: {CHECK_STEPS} steps, the first ones, in {time.perf_counter() - began:.1f} s")
        return differences

    def step_seconds(self) -> dict[str, float]:
        """Seconds of a single step of each contestant, to plan by."""
        batches = self.population.batches(2)
        seconds = {}
        for name, contestant in self.contestants(("atras", *self.peers), dropout=True):
            ready = contestant.prepare(batches)
            self._seconds(name, contestant, ready[:1])
            seconds[name] = self._seconds(name, contestant, ready[1:])
        return seconds

    def times(self, steps: int, rounds: int, say: Callable[[str], None]) -> Times:
        """Seconds a step of each contestant in each round, all taking their turn."""
        *_, last = self.turns(steps, rounds, math.inf, say)
        return last

    def turns(self, steps: int, rounds: int, until: float, say: Callable[[str], None]) -> Iterator[Times]:
        """As `times`, what there is of it after each turn; in every round atras has the first.

        Args:
            steps, rounds: timed steps, and the turns that each contestant takes them in.
            until: by `time.perf_counter`; no turn begins behind it.
            say: told of each round.
        """
        contestants = dict(self.contestants(("atras", *self.peers), dropout=True))
        batches = self.population.batches(CHECK_STEPS)
        ready = {name: contestant.prepare(batches) for name, contestant in contestants.items()}
        warm_up = range(warm_up_steps(steps, rounds, self.population.device))
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        peaks = dict.fromkeys(DTYPES, 0.0)
        for number in range(rounds):
            taken = range(steps * number // rounds, steps * (number + 1) // rounds)
            for name, contestant in contestants.items():
                if time.perf_counter() > until:
                    return
                if number == 0:
                    self._seconds(name, contestant, [ready[name][step % len(batches)] for step in warm_up])
                work = [ready[name][step % len(batches)] for step in taken]
                seconds[name].append(self._seconds(name, contestant, work) / len(work))
                if name == "atras":
                    for precision, dtype in DTYPES.items():
                        peaks[precision] = max(peaks[precision], gemm_gflops(dtype, self.population.device))
                yield Times(seconds, peaks)
            say(f"round {number + 1} of {rounds} done")

    def figures(self, name: str, times: Times) -> dict[str, Any]:
        """The measurements of one contestant, as JSON values."""
        task = self.population.task(dropout=True)
        flops = self.population.batch_size * sum(training_flops(task, member.hidden) for member in task.members)
        seconds = times.seconds[name]
        compiled = {"compile_seconds": self.compile_seconds[name]} if name in COMPILED else {}
        return compiled | {
            "rounds": len(seconds),
            "seconds_per_step": statistics.median(seconds),
            "gflops": flops / statistics.median(seconds) / 1e9,
            "seconds_spread": [min(seconds), max(seconds)],
            "members": len(task.members),
        }

    def _seconds(self, name: str, contestant: Contestant, batches: Any) -> float:
        with self._settings(name):
            synchronize(self.population.device)
            start = time.perf_counter()
            contestant.run(batches)
            synchronize(self.population.device)
            return time.perf_counter() - start

    def _settings(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """On a GPU atras trains under its own settings, peers under the fastest that are true fp32."""
        if name == "atras" or self.population.device.type == "cpu":
            return contextlib.nullcontext()
        return exact_arithmetic(repeatable=False)


def timed_steps(asked: int | None, device: torch.device) -> int:
    """Those asked for, or what the device needs."""
    return asked or (GPU_STEPS if device.type == "cuda" else STEPS)


def warm_up_steps(steps: int, rounds: int, device: torch.device) -> int:
    """Steps before the timed ones: on a GPU a whole round, in which launches are compiled and recorded."""
    return -(-steps // rounds) if device.type == "cuda" else WARM_UP_STEPS


def gemm_gflops(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of the best of a few square matrix products, of a size that takes a fraction of a second."""
    best, size = 0.0, 512
    while True:
        a, b = torch.rand(size, size, device=device).to(dtype), torch.rand(size, size, device=device).to(dtype)
        taken = []
        for _ in range(4):
            synchronize(device)
            start = time.perf_counter()
            torch.mm(a, b)
            synchronize(device)
            taken.append(time.perf_counter() - start)
        best = max(best, 2 * size**3 / min(taken) / 1e9)
        if size == 16384 or 8 * min(taken) > 0.1:
            return best
        size *= 2


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
