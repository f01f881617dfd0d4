"""The paper's MNIST table, read every way: units or filters, activation, learning rate, dropout, epsilon.

    python bench/validation/readings.py --data mnist5k.npz --device cuda --compile 10 --seconds 140 --out readings.json
    python bench/validation/readings_tables.py readings.json

Three parts, in this order, each job of which is written as soon as it is measured:

1. `screen`: units behind the stem, all of {relu, sigmoid, tanh} x {1e-3, 3e-3, 1e-2} x dropout of hidden layers
   {0, 0.5}, the 40 candidates, one seed. A network is trained once, and before the defence measured at all epsilons, as
   these change nothing in the first training; the second training is at the middle one alone.
2. `confirm`: of the screened readings the nearest to the paper, by its rows that trained and by all rows, with seeds of
   their own and all epsilons, so that being chosen flatters no figure.
3. `filters`: the other reading of "nodes", one factor at a time from {relu, 1e-3, 0}, on the candidates up to a cost
   (`--filters-cost`): the widest cost fifty times what units do.

Needs neither polars nor a built extension on a GPU. All else is the paper's preset (docs/protocol.md): 20 epochs and 20
more. Reckoned for an H100 at 70 TFLOP/s the screen takes about 70 s, 15 s a confirmed reading, and the filters 40 s;
what does not fit into `--seconds` is not begun. `--compile N` compiles the kernels of all jobs first, in N processes.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
import traceback
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from atras.engines import Engine, Epoch
from atras.errors import InputError
from atras.evaluation import AllSigns, Evaluator, Score
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Network, Variant, k_complete, members_of, permutation, seeds_of
from atras.planning import training_flops
from atras.running.prepare import make_spec
from harness import Clock, Results, Row, Setting, StoppedError, add_options, engines_for, execution_of, numbers
from paper_rows import COLUMNS, distances

PARTS = ("screen", "confirm", "filters")
KINDS = {"units": "dense", "filters": "conv"}
"""Readings of the paper's "nodes", as kinds of `k_complete`."""
GUESSED_FLOPS = {"cuda": 7e13, "cpu": 3e10}
"""A second in training, until the first job tells."""
SHORT = ("--epochs", "1", "--train-size", "520", "--test-size", "500", "--epsilons", "0.04", "--compile", "0")
"""A job that only compiles: its batches have the sizes of 5,000 images' (128, and 8 or 16 in the last one; 500)."""


@dataclass(frozen=True)
class Job:
    """Readings that are trained together.

    Args:
        part: of `PARTS`.
        nodes: `units` or `filters`.
        activation, dropout: of the networks.
        rates: learning rates, each a variant of every candidate.
        seeds: of every candidate.
        epsilons: of the second training.
    """

    part: str
    nodes: str
    activation: str
    dropout: float
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    epsilons: tuple[float, ...]

    def __str__(self) -> str:
        rates, epsilons = (" ".join(f"{each:g}" for each in some) for some in (self.rates, self.epsilons))
        seeds = " ".join(map(str, self.seeds))
        return (
            f"{self.part}: {self.nodes}, {self.activation}, dropout {self.dropout:g}, rates {rates}, seeds {seeds}, "
            f"epsilons {epsilons}"
        )

    @property
    def members(self) -> str:
        return f"{self.nodes} {self.activation} {self.dropout}"


def screen(asked: argparse.Namespace) -> list[Job]:
    """Units, fully crossed, one seed."""
    middle = (asked.epsilons[len(asked.epsilons) // 2],)
    return [
        Job("screen", "units", activation, dropout, asked.rates, asked.seeds[:1], middle)
        for dropout in asked.dropouts
        for activation in asked.activations
    ]


def filters(asked: argparse.Namespace) -> list[Job]:
    """Filters, one factor at a time from the first of each."""
    middle, (first, *others) = (asked.epsilons[len(asked.epsilons) // 2],), asked.activations
    base = Job("filters", "filters", first, asked.dropouts[0], asked.rates, asked.seeds[:1], middle)
    by_activation = [replace(base, activation=each, rates=asked.rates[:1]) for each in others]
    by_dropout = [replace(base, dropout=each, rates=asked.rates[:1]) for each in asked.dropouts[1:]]
    return [base, *by_activation, *by_dropout]


def confirm(asked: argparse.Namespace, rows: Sequence[Row]) -> list[Job]:
    """The nearest of the screened readings, with other seeds and all epsilons."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["part"] == "screen":
            found.setdefault((row["activation"], row["dropout"], row["learning_rate"]), []).append(row)
    chosen: dict[tuple[Any, ...], None] = {}
    for whole in (False, True):
        far = {key: distances(own, asked.table, whole=whole) for key, own in found.items()}
        near = sorted((sum(each), key) for key, each in far.items() if each is not None)
        chosen |= dict.fromkeys(key for _, key in near[: asked.confirmed])
    return [
        Job("confirm", "units", activation, dropout, (rate,), asked.seeds[1:], asked.epsilons)
        for activation, dropout, rate in chosen
        if asked.seeds[1:]
    ]


class Bench:
    """Data, device and clock, and what a job is made of."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.clock = asked, Clock(asked.seconds)
        self.protocol = Protocol(
            dataset=asked.data, train_size=asked.train_size, test_size=asked.test_size, epochs=asked.epochs,
            adversarial_epochs=asked.epochs, precision=asked.precision,
        )  # fmt: skip
        self.setting = Setting(self.protocol, execution_of(asked))
        self.flops_a_second = GUESSED_FLOPS["cuda" if self.setting.device.type == "cuda" else "cpu"]

    def of(self, job: Job) -> tuple[Protocol, list[Member], float]:
        """The protocol of a job, its members, and the FLOPs of its trainings."""
        whole = k_complete(kind=KINDS[job.nodes])
        candidates = tuple(each for each in whole[:: self.asked.every] if each.depth >= self.asked.least_depth)
        protocol = self.protocol.replace(
            candidates=candidates, activation=job.activation, head_dropout=job.dropout, seeds=job.seeds,
            learning_rate=job.rates[0], epsilon=job.epsilons[0],
        )  # fmt: skip
        data = self.setting.data
        spec = make_spec(protocol, data.image_shape, data.classes)
        flops = {each: training_flops(Network(spec, each)) for each in candidates}
        if job.nodes == "filters":
            flops = {each: own for each, own in flops.items() if own <= self.asked.filters_cost * 1e6}
            protocol = protocol.replace(candidates=tuple(flops))
        variants = [Variant((("learning_rate", f"{rate:g}"),)) for rate in job.rates]
        members = list(members_of(tuple(flops), job.seeds, variants))
        images = len(data.train) * self.asked.epochs * (1 + 2 * len(job.epsilons))
        return protocol, members, images * sum(flops[member.candidate] for member in members)

    def measured(self, job: Job) -> Iterator[list[Row]]:
        """Rows of a job, an engine and epsilon at a time."""
        protocol, members, _ = self.of(job)
        spec = make_spec(protocol, self.setting.data.image_shape, self.setting.data.classes)
        for engine in engines_for(spec, members, protocol, self.setting.device):
            yield from Course(engine, self).rows(job)


class Course:
    """The experiment on the members of an engine, at several epsilons, with one first training."""

    def __init__(self, engine: Engine, bench: Bench) -> None:
        self.engine, self.bench, self.protocol = engine, bench, engine.protocol
        self.data = bench.setting.data
        seeds, places = seeds_of(engine.members)
        self.seeds, self.order_of = seeds, torch.tensor(places, dtype=torch.int64, device=engine.device)
        self.finite = torch.ones(len(engine.members), dtype=torch.bool, device=engine.device)

    def rows(self, job: Job) -> Iterator[list[Row]]:
        """Rows of each epsilon."""
        self.train("train")
        evaluator = self.evaluator(job.epsilons[0])
        train_signs, train = evaluator.signs_of("train")
        test_signs, test = evaluator.signs_of("test")
        before = {
            epsilon: self.evaluator(epsilon).score("test", test_signs, "attacked")
            for epsilon in self.bench.asked.epsilons
        }
        finite, state = self.finite, self.engine.state(optimizer=False) if len(job.epsilons) > 1 else None
        for number, epsilon in enumerate(job.epsilons):
            if number and state is not None:
                self.finite = finite.clone()
                self.engine.load_state(state)
            self.train("adversarial", train_signs, epsilon)
            evaluator = self.evaluator(epsilon)
            both = evaluator.score("train").joined(evaluator.score("train", train_signs, "copies"))
            clean, static = evaluator.score("test"), evaluator.score("test", test_signs, "static")
            fine = (self.finite.cpu() & train.finite.cpu() & clean.finite.cpu() & both.finite.cpu()).tolist()
            yield [
                self.row(job, epsilon, index, [train, test, before[epsilon], both, clean, static], before)
                if fine[index]
                else self.row(job, epsilon, index, [], {})
                for index in range(len(self.engine.members))
            ]

    def train(self, phase: str, signs: AllSigns | None = None, epsilon: float = 0.0) -> None:
        """All epochs of a phase, as `atras run` trains: the same orders, masks and arithmetic."""
        part, protocol = self.data.train, self.protocol
        n = len(part) * (1 if signs is None else 2)
        steps = -(-n // protocol.batch_size)
        self.engine.begin_phase(phase, protocol.epochs * steps, steps)
        for epoch in range(1, protocol.epochs + 1):
            self.bench.clock.check()
            orders = torch.stack([permutation(seed, phase, epoch, n) for seed in self.seeds]).to(self.engine.device)
            work = Epoch(part.images, part.labels, orders, self.order_of, signs, epsilon)  # type: ignore[arg-type]
            self.finite &= self.engine.epoch(work).losses.isfinite().all(1).to(self.engine.device)

    def evaluator(self, epsilon: float) -> Evaluator:
        protocol = self.protocol.replace(epsilon=epsilon)
        return Evaluator(self.engine, self.data, protocol, self.bench.asked.evaluation_batch)

    def row(self, job: Job, epsilon: float, index: int, scores: list[Score], before: dict[float, Score]) -> Row:
        """The figures of a member; null where it diverged."""
        member = self.engine.members[index]
        accuracies = [round(score.correct[index] / score.n, 6) for score in scores] or [None] * len(COLUMNS)
        return {
            "part": job.part, "nodes": job.nodes, "activation": job.activation, "dropout": job.dropout,
            "learning_rate": float(member.variant.get("learning_rate") or 0), "epsilon": epsilon,
            "seed": member.seed, "hidden_layers": paper_name(member.candidate), "depth": member.candidate.depth,
            **dict(zip(COLUMNS, accuracies, strict=True)),
            "attacked_by_epsilon": {f"{each:g}": score.correct[index] / score.n for each, score in before.items()},
            "dead_before": bool(scores) and scores[1].one_class[index],
            "dead_after": bool(scores) and scores[4].one_class[index],
            "engine": self.engine.name,
        }  # fmt: skip


def paper_name(candidate: Candidate) -> str:
    """Hidden layers as the paper names them, of filters too."""
    return candidate.name.replace("c", "")


def compile_first(asked: argparse.Namespace, jobs: Sequence[Job], given: Sequence[str], clock: Clock) -> float:
    """Run each job in little, some at a time, so that its kernels are in Triton's cache; the seconds that takes."""
    begin = time.perf_counter()
    waiting, running = list({job.members: job for job in jobs}.values()), []
    while waiting or running:
        running = [each for each in running if each.poll() is None]
        if clock.stop():
            for each in running:
                each.kill()
            break
        while waiting and len(running) < asked.compile:
            job = waiting.pop(0)
            out = asked.out.with_name(f"{asked.out.name}.compile")
            own = ["--part", job.part, "--activations", job.activation, "--dropouts", f"{job.dropout:g}"]
            command = [sys.executable, __file__, *given, *SHORT, *own, "--out", str(out)]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))  # noqa: S603
        time.sleep(0.1)
    asked.out.with_name(f"{asked.out.name}.compile").unlink(missing_ok=True)
    return time.perf_counter() - begin


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(evaluation_batch=500)
    parser.add_argument("--part", action="append", choices=PARTS, help="which; may be given again; default: all")
    parser.add_argument("--activations", type=numbers(str), default=("relu", "sigmoid", "tanh"))
    parser.add_argument("--rates", type=numbers(float), default=(1e-3, 3e-3, 1e-2))
    parser.add_argument("--dropouts", type=numbers(float), default=(0.0, 0.5))
    parser.add_argument("--epsilons", type=numbers(float), default=(0.03, 0.04, 0.05))
    parser.add_argument("--seeds", type=numbers(int), default=(0, 1, 2), help="the first one screens")
    parser.add_argument("--epochs", type=int, default=20, help="of each training")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th candidate alone")
    parser.add_argument("--least-depth", type=int, default=1, metavar="N", help="candidates of N and more layers alone")
    parser.add_argument("--filters-cost", type=float, default=140, metavar="MFLOP", help="of a candidate as filters")
    parser.add_argument("--confirmed", type=int, default=2, metavar="N", help="nearest readings, by each measure")
    parser.add_argument("--compile", type=int, default=0, metavar="N", help="processes that compile first; 0 for none")
    parser.add_argument("--table", default="mnist", choices=("mnist", "cifar10"), help="the paper's, to compare with")
    return parser.parse_args(argv)


def run_job(bench: Bench, job: Job, results: Results) -> bool:
    """Measure a job and say how long it took; False where the budget ended it, or does not suffice."""
    _, members, flops = bench.of(job)
    expected = flops / bench.flops_a_second
    if expected > bench.clock.left:
        print(f"{job}: not begun, about {expected:.0f} s, {bench.clock.left:.0f} s left", flush=True)
        return False
    begin = time.perf_counter()
    try:
        for rows in bench.measured(job):
            results.add(rows)
        bench.setting.sync()
    except StoppedError:
        print(f"{job}: stopped, the budget of {bench.asked.seconds:g} s is spent", flush=True)
        return False
    except Exception as error:  # of a kernel, or of memory: the other jobs have theirs
        traceback.print_exc()
        results.add([], failed=[*results.document["failed"], f"{job}: {error}"])
        return False
    gc.collect()  # the memory of this job's engine is the next one's
    taken = time.perf_counter() - begin
    bench.flops_a_second = flops / taken
    print(f"{job}: {len(members)} networks, {taken:.1f} s, {bench.clock.passed:.0f} s in all", flush=True)
    results.add([], jobs=[*results.document["jobs"], {"job": str(job), "seconds": taken, "training_flops": flops}])
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what fits into the budget.

    Returns:
        0; 1 where a job failed; 2 for bad input.
    """
    asked = parse(argv)
    parts = asked.part or PARTS
    first, last = (own(asked) if part in parts else [] for part, own in (("screen", screen), ("filters", filters)))
    try:
        bench = Bench(asked)
        flops = sum(bench.of(job)[2] for job in (*first, *last))
        seconds = flops / bench.flops_a_second
        print(f"{flops / 1e12:.0f} TFLOP of training without what is confirmed, about {seconds:.0f} s", flush=True)
        given = [word for name in ("data", "device", "precision") for word in (f"--{name}", str(getattr(asked, name)))]
        given += ["--data-dir", asked.data_dir] if asked.data_dir else []
        narrowed = ("every", "least_depth", "filters_cost")
        given += [f"--{name.replace('_', '-')}={getattr(asked, name)}" for name in narrowed]
        compiling = compile_first(asked, [*first, *last], given, bench.clock) if asked.compile else 0.0
        about = {
            "script": "readings",
            "environment": bench.setting.environment,
            "table": asked.table,
            "jobs": [],
            "failed": [],
        }
        results = Results(asked.out, {**about, "precision": asked.precision, "compile_seconds": compiling})
        done = [run_job(bench, job, results) for job in first]
        chosen = confirm(asked, results.rows) if "confirm" in parts else []
        done += [run_job(bench, job, results) for job in (*chosen, *last)]
    except InputError as error:
        print(f"readings.py: {error}", file=sys.stderr)
        return 2
    results.add([], complete=all(done), seconds=bench.clock.passed)
    return int(bool(results.document["failed"]))


if __name__ == "__main__":
    sys.exit(main())
