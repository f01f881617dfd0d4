"""What a group costs beside its own computing, by executor: the same small groups, by turns, by workers that are warm.

`OMP_NUM_THREADS=2 python bench/executors.py --executors local,processes,ray` on a machine of two processors has one
worker of two threads, whose waiting is the overhead as a whole; with one thread there are two workers, and the wait for
the last group counts too. The processor's milliseconds are of this process and all below it (Ray's own among them).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from atras.experiment import EXECUTORS, Execution, Protocol
from atras.networks import Candidate
from atras.running import Executor, GroupTask, Outcome, Reporter, Surroundings, run

PER_SECOND = os.sysconf("SC_CLK_TCK")


class Taken(NamedTuple):
    """What the same groups took in one turn of an executor, each figure for one group.

    Args:
        executor: which.
        computing: milliseconds that workers computed, checkpoints and networks written among them.
        beside: milliseconds of a worker in which it did not, from the first group's beginning to the last one's rows.
        processor: milliseconds of the processor, in all processes.
        started: processes that were not there before.
    """

    executor: str
    computing: float
    beside: float
    processor: float
    started: int


class Seconds(Reporter):
    """Adds up what groups took where they were computed."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def group_finished(self, index: int, seconds: float) -> None:
        self.seconds += seconds


def below(parent: int) -> dict[int, float]:
    """The processor's seconds of a process and of all that it started, by process."""
    stats: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stats[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended just now
    found = [parent]
    for each in found:
        found += [process for process, stat in stats.items() if int(stat[1]) == each]
    return {each: sum(map(int, stats[each][11:13])) / PER_SECOND for each in found if each in stats}


def turn(name: str, executor: Executor, tasks: Sequence[GroupTask], place: Surroundings) -> Taken:
    """All groups once."""
    reporter = Seconds()
    before, begin = below(os.getpid()), time.perf_counter()
    for outcome in executor.map(tasks, dataclasses.replace(place, reporter=reporter)):
        assert outcome.rows is not None
        outcome.task.forget()
    wall, after = time.perf_counter() - begin, below(os.getpid())
    idle = wall * executor.slots(tasks[0].device) - reporter.seconds
    processor = sum(after.values()) - sum(before.values())
    each = 1e3 / len(tasks)
    return Taken(name, each * reporter.seconds, each * idle, each * processor, len(after.keys() - before.keys()))


class ByTurns(Executor):
    """Has the groups of a run computed by each of several executors in turn, then by none."""

    name = "by-turns"
    wanted: tuple[str, ...] = ()
    groups = rounds = 1
    taken: list[Taken] = []  # noqa: RUF012 (one bench a process)

    def slots(self, device: torch.device) -> int:
        return max(1, self.groups // 2)

    def map(self, tasks: Sequence[GroupTask], place: Surroundings) -> Iterator[Outcome]:
        execution = dataclasses.replace(self.execution, executor="local")
        executors = {name: EXECUTORS.get(name)(execution) for name in self.wanted}
        for name, executor in executors.items():
            turn(name, executor, tasks, place)
        for number in range(self.rounds):
            order = list(executors.items())
            for name, executor in order if number % 2 else reversed(order):
                self.taken.append(turn(name, executor, tasks, place))
        for executor in executors.values():
            executor.close()
        with closing(EXECUTORS.get("local")(execution)) as local:
            yield from local.map(tasks, place)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executors", default="local,ray")
    parser.add_argument("--groups", type=int, default=40, help="at least so many, as members allow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args(arguments)
    ByTurns.wanted, ByTurns.groups, ByTurns.rounds = tuple(asked.executors.split(",")), asked.groups, asked.rounds
    ByTurns.taken = []
    EXECUTORS.register(ByTurns)
    seeds = -(-asked.groups // 4)
    candidates = tuple(map(Candidate.parse, ("24", "32", "24-24", "32-24")))
    protocol = Protocol(
        candidates=candidates, seeds=tuple(range(seeds)), epochs=asked.epochs, adversarial_epochs=asked.epochs
    )
    execution = Execution(executor="by-turns", device="cpu", engine="fused")
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = run(protocol, execution, out=Path(folder) / "run")
    finally:
        EXECUTORS.unregister("by-turns")
    groups = len(results.run["plan"]["groups"])
    print(
        f"{groups} groups, {torch.get_num_threads()} threads each; milliseconds a group, median of {asked.rounds} turns"
    )
    print(f"{'executor':<12}{'computing':>12}{'beside':>10}{'processor':>12}{'processes started':>20}")
    for name in ByTurns.wanted:
        own = [each for each in ByTurns.taken if each.executor == name]
        middle: dict[str, Any] = {key: median(getattr(each, key) for each in own) for key in Taken._fields[1:]}
        print(f"{name:<12}{middle['computing']:>12.1f}{middle['beside']:>10.1f}{middle['processor']:>12.1f}", end="")
        print(f"{max(each.started for each in own):>20}")
    if asked.json:
        record = {"groups": groups, "taken": [each._asdict() for each in ByTurns.taken]}
        asked.json.write_text(json.dumps(record), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
