"""Training steps of small fixed populations, engine by engine, beside matrix products measured in the same process.

bench/peers.py compares with textbook PyTorch; this follows atras over time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from atras.data import pixels
from atras.engines import ENGINES
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import PAPER_CANDIDATES, Candidate, Network
from atras.planning import training_flops
from atras.running.prepare import Prepared, prepare
from atras.running.task import parts_of

from .side_by_side import DEVICES, seconds, synchronize

HIDDEN = (40,), (8, 128), (24, 192), (16, 64, 256)
# Data set and candidates; `pictures` stands for random 28x28 images, whose stem is conv2.
CASES = {
    "digits, 8 candidates": ("digits", PAPER_CANDIDATES[::5]),
    "28x28, conv2, 4 candidates": ("pictures", tuple(Candidate(widths) for widths in HIDDEN)),
}
ROUNDS = 3
STEPS = {"cpu": 1, "cuda": 500}
"""Of a round: on a GPU what Python does before the first and behind the last is to be no part of a step."""
GEMM_SIZE = 2048
Cache = dict[tuple[str, str, str], tuple[Protocol, Prepared]]


class Train:
    """A step of batch 128 of all groups that the plan makes of a population."""

    param_names = ("device", "case", "engine")
    params = (DEVICES, list(CASES), list(ENGINES))
    timeout = 300

    def setup_cache(self) -> Cache:
        """Every population prepared and planned once; what cannot run here is left out."""
        draw = np.random.default_rng(0)
        values = {f"x_{part}": draw.integers(0, 256, (1000, 28, 28), dtype=np.uint8) for part in ("train", "test")}
        np.savez("pictures.npz", **values, y_train=np.arange(1000) % 10, y_test=np.arange(1000) % 10)
        cache: Cache = {}
        for device, case, engine in ((d, c, e) for d in DEVICES for c in CASES for e in ENGINES):
            dataset, candidates = CASES[case]
            path = str(Path("pictures.npz").resolve()) if dataset == "pictures" else dataset
            protocol = Protocol(dataset=path, candidates=candidates)
            try:
                prepared = prepare(protocol, Execution(engine=engine, device=device))
            except InputError:
                continue
            cache[device, case, engine] = protocol.replace(precision=prepared.plan.precision), prepared
        return cache

    def setup(self, cache: Cache, device: str, case: str, engine: str) -> None:
        if (device, case, engine) not in cache:
            raise NotImplementedError(f"engine {engine} does not run here")
        self.device = device
        protocol, (where, data, self.spec, self.plan) = cache[device, case, engine]
        self.images = pixels(data.train.images[: protocol.batch_size], torch.float32)
        self.labels = data.train.labels[: protocol.batch_size]
        self.engines = []
        for group in self.plan.groups:
            self.engines += [ENGINES.get(engine)(self.spec, part, protocol, where) for part in parts_of(group)]
        for one in self.engines:
            one.begin_phase("train")
        losses = torch.cat([one.step(self.images, self.labels).losses for one in self.engines])
        if not losses.isfinite().all():
            raise ValueError(f"losses (={losses.tolist()}): expected finite ones")
        dtype = torch.bfloat16 if self.plan.precision == "bf16" else torch.float32
        self.matrix = torch.rand(GEMM_SIZE, GEMM_SIZE, device=where).to(dtype)

    def step(self) -> None:
        for one in self.engines:
            one.step(self.images, self.labels)

    def rates(self) -> tuple[float, float]:
        """FLOP/s of the step and of a matrix product in its precision, each at its best, measured in turn.

        A step counts its products with zeros too, which an engine may skip: its rate can be the higher one.
        """
        networks = [Network(self.spec, member.candidate) for group in self.plan.groups for member in group.members]
        flops = len(self.labels) * sum(map(training_flops, networks))
        count = STEPS[self.device]
        works = self.step, lambda: self.matrix @ self.matrix
        many = [partial(_repeated, work, count) for work in works]
        rounds = [[seconds(work, self.device) / count for work in many] for _ in range(1 + ROUNDS)][1:]
        step, gemm = (min(times) for times in zip(*rounds, strict=True))
        return flops / step, 2 * GEMM_SIZE**3 / gemm

    def time_step(self, cache: Cache, device: str, case: str, engine: str) -> None:
        self.step()
        synchronize(device)

    def peakmem_steps(self, cache: Cache, device: str, case: str, engine: str) -> None:
        self.step()
        self.step()
        synchronize(device)

    def track_useful_gflops(self, cache: Cache, device: str, case: str, engine: str) -> float:
        return self.rates()[0] / 1e9

    def track_share_of_gemm_peak(self, cache: Cache, device: str, case: str, engine: str) -> float:
        step, gemm = self.rates()
        return step / gemm

    def track_padding_share(self, cache: Cache, device: str, case: str, engine: str) -> float:
        useful = sum(group.flops for group in self.plan.groups)
        return 1 - useful / sum(group.flops / (1 - group.padding_share) for group in self.plan.groups)

    track_useful_gflops.unit = "GFLOP/s"
    track_share_of_gemm_peak.unit = track_padding_share.unit = "share"


def _repeated(work: Callable[[], object], count: int) -> None:
    for _ in range(count):
        work()
