"""The paper's second reading on a CPU, nodes as filters: engine fused beside the fp32 loop engine, equal losses first.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python bench/conv_family.py --dataset mnist --every 5 --json out.json

Of the 40 candidates, in the order of their FLOPs, every k-th is taken, and stands for those around it. One thread, and
the processor's time of this process, so that other programs matter little; all sides take their turn in each round.
From the figures of a training step, a forward pass and a gradient of the images comes the time of the whole table: the
paper's epochs of both phases, and all passes of its evaluation and FGSM. Losses of ten steps must agree, or nothing is
timed and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from atras.engines import ENGINES, Engine, Epoch, has_bf16
from atras.environment import describe
from atras.experiment import Execution, Protocol
from atras.networks import Candidate, Member, Network, k_complete
from atras.planning import forward_flops, training_flops
from atras.planning.cost import evaluation_passes
from atras.running.prepare import prepare
from contest import CHECK_STEPS, Difference

CPU = torch.device("cpu")
WORKS = ("training", "forward", "gradient")
LEAST_SECONDS = 0.05
"""Of processor time that a figure is taken over."""


class Sampled(NamedTuple):
    """A candidate, and by how much its times stand for those of candidates with similar FLOPs."""

    candidate: Candidate
    weight: float


class Seconds(NamedTuple):
    """Processor seconds of an image."""

    training: float
    forward: float
    gradient: float


class Table(NamedTuple):
    """How many images of a candidate's whole table are trained on, evaluated, and differentiated by."""

    training: int
    forward: int
    gradient: int

    def seconds(self, each: Seconds) -> float:
        return sum(count * own for count, own in zip(self, each, strict=True))


class Contestant:
    """One engine on one candidate, on batches of the data set."""

    def __init__(self, engine: str, precision: str, network: Network, epoch: Epoch, batch: int) -> None:
        protocol = Protocol(precision=precision, batch_size=batch)
        self.precision, self.epoch, self.batch = precision, epoch, batch
        self.engine: Engine = ENGINES.get(engine)(network.spec, [Member(network.candidate, 0)], protocol, CPU)
        self.engine.begin_phase("train")
        self.images, self.labels = epoch.images[:batch].float() / 255, epoch.labels[:batch]

    def losses(self) -> torch.Tensor:
        """Of the first steps, [steps, 1]."""
        orders = self.epoch.orders[:, : CHECK_STEPS * self.batch].split(self.batch, 1)
        own = [self.engine.epoch(self.epoch._replace(orders=order)).losses[0].mean() for order in orders]
        return torch.stack(own).double()[:, None]

    def work(self, name: str) -> tuple[Callable[[], object], int]:
        """What is timed, and of how many images it is."""
        if name == "training":
            order = self.epoch.orders[:, : 2 * self.batch]
            return lambda: self.engine.epoch(self.epoch._replace(orders=order)), order.shape[1]
        if name == "forward":
            return lambda: self.engine.logits(self.images), self.batch
        return lambda: self.engine.gradient(self.images, self.labels), self.batch

    def seconds(self, name: str) -> float:
        """Processor seconds of an image."""
        work, images = self.work(name)
        start, calls = time.process_time(), 0
        while calls == 0 or time.process_time() - start < LEAST_SECONDS:
            work()
            calls += 1
        return (time.process_time() - start) / calls / images


def sample(candidates: Sequence[Candidate], flops: Sequence[int], every: int) -> list[Sampled]:
    """Every k-th candidate by FLOPs, with the FLOPs of those around it for a weight."""
    order = sorted(range(len(candidates)), key=lambda i: -flops[i])
    chosen = []
    for first in range(0, len(order), every):
        block = order[first : first + every]
        middle = block[len(block) // 2]
        chosen.append(Sampled(candidates[middle], sum(flops[i] for i in block) / flops[middle]))
    return chosen


def differences(contestants: dict[str, Contestant]) -> dict[str, Difference]:
    """Of each side's losses from the loop's."""
    expected = contestants["loop"].losses()
    return {
        name: Difference.of(each.losses(), expected, each.precision)
        for name, each in contestants.items()
        if name != "loop"
    }


def measure(contestants: dict[str, Contestant], rounds: int) -> dict[str, list[Seconds]]:
    """Seconds of each side by round, after one call that is not counted."""
    for each in contestants.values():
        for name in WORKS:
            each.work(name)[0]()
    taken: dict[str, list[Seconds]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, each in contestants.items():
            taken[name].append(Seconds(*map(each.seconds, WORKS)))
    return taken


def medians(rounds: Sequence[Seconds]) -> Seconds:
    """Of each figure."""
    return Seconds(*map(statistics.median, zip(*rounds, strict=True)))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--every", type=int, default=5, help="1 for all candidates")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each candidate, and the ratios of the whole table; 1 where losses differ."""
    options = parse(argv)
    torch.set_num_threads(1)
    protocol = Protocol(dataset=options.dataset, candidates=k_complete(kind="conv"), precision="fp32")
    execution = Execution(**({"data_dir": options.data_dir} if options.data_dir else {}))
    _, data, spec, _ = prepare(protocol, execution)
    networks = [Network(spec, candidate) for candidate in protocol.candidates]
    chosen = sample(protocol.candidates, [training_flops(network) for network in networks], options.every)
    train, batch = data.train, protocol.batch_size
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))[None]
    epoch = Epoch(train.images, train.labels, order, torch.zeros(1, dtype=torch.int64), None, 0.0)
    passes = evaluation_passes(protocol, spec.classes, len(train), len(data.test))
    images = len(train) * (protocol.epochs + 2 * protocol.adversarial_epochs)
    table = Table(images, passes.forward, passes.gradient)
    print(f"{describe(CPU)['cpu']}, one thread; fused over the loop in fp32: training, forward, gradient, table")
    sides = {"loop": ("loop", "fp32"), "fp32": ("fused", "fp32"), **({"bf16": ("fused", "bf16")} if has_bf16() else {})}
    rows = []
    for candidate, weight in chosen:
        network = Network(spec, candidate)

        def contestants(network: Network = network) -> dict[str, Contestant]:
            return {name: Contestant(*side, network, epoch, batch) for name, side in sides.items()}

        checked = differences(contestants())
        if wrong := [name for name, each in checked.items() if not each.acceptable]:
            print(f"{candidate.name}: losses differ in {', '.join(wrong)}: {checked}", file=sys.stderr)
            return 1
        taken = measure(contestants(), options.rounds)
        rows.append({
            "candidate": candidate.name, "weight": weight, "forward_flops": forward_flops(network),
            "training_flops": training_flops(network), "seconds": taken,
            "losses": {name: each._asdict() for name, each in checked.items()},
        })  # fmt: skip
        print(line(candidate.name, taken, training_flops(network), table), flush=True)
    ratios = table_ratios(rows, table)
    for name, own in ratios.items():
        median, low, high = statistics.median(own), min(own), max(own)
        print(f"whole table, {name}: {median:.2f} times as fast as the fp32 loop, {low:.2f} to {high:.2f} by round")
    if options.json:
        found = {"machine": describe(CPU), "table": table._asdict(), "candidates": rows, "ratios": ratios}
        options.json.write_text(json.dumps(found, indent=1, default=str))
    return 0


def line(name: str, taken: dict[str, list[Seconds]], flops: int, table: Table) -> str:
    """A candidate's ratios."""
    loop, parts = medians(taken["loop"]), []
    for side in taken:
        own = medians(taken[side])
        if side == "loop":
            parts.append(f"loop {flops / own.training / 1e9:.0f} GFLOP/s")
            continue
        ratios = [theirs / ours for theirs, ours in zip(loop, own, strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in (*ratios, table.seconds(loop) / table.seconds(own)))
        parts.append(f"{side} {flops / own.training / 1e9:.0f} GFLOP/s: {each}")
    return f"{name}: " + "; ".join(parts)


def table_ratios(rows: Sequence[dict], table: Table) -> dict[str, list[float]]:
    """By side, the loop's time of the whole table over its own, in each round. Evaluation is fp32 on all sides."""
    names, rounds = rows[0]["seconds"], len(rows[0]["seconds"]["loop"])
    totals = {
        name: [sum(row["weight"] * table.seconds(row["seconds"][name][i]) for row in rows) for i in range(rounds)]
        for name in names
    }
    return {
        name: [theirs / ours for theirs, ours in zip(totals["loop"], own, strict=True)]
        for name, own in totals.items()
        if name != "loop"
    }


if __name__ == "__main__":
    sys.exit(main())
