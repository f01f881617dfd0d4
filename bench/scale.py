"""A simulation of a large run: 10,000 candidates with 10 seeds each on MNIST, on 1 to 4,096 workers of one CPU thread.

Groups are those that the planner makes. Workers differ in speed, are lost and come back, and groups differ from their
prediction; what was lost is computed again from its last checkpoint. One driver takes the rows of one group after the
other. Nothing is trained; the same seed gives the same table. `python bench/scale.py`
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import time
from pathlib import Path
from typing import NamedTuple

from atras.experiment import Protocol
from atras.networks import Candidate, Spec
from atras.planning import Machine, make_groups, schedule, spread, work_of

SIZES = (60_000, 10_000)
SPEC = Spec((1, 28, 28), 10)


class World(NamedTuple):
    """What is not known before a run.

    Args:
        flops: a second, of a worker of the middle: half of what two threads reach in docs/performance.md's table, as
            attacks are slower than training.
        spread: standard deviation of the logarithm of workers' speeds.
        surprise: likewise, of a group's time about its prediction.
        hours_between_losses: of one worker, in the mean.
        seconds_away: until a worker that was lost is back.
        seconds_between_checkpoints: of a group; what came after the last one is computed again.
        overhead: seconds of a group besides its work.
        driver: seconds that the driver takes for a group, and for each of its members: `bench/driver.py`.
    """

    flops: float = 1e11
    spread: float = 0.15
    surprise: float = 0.1
    hours_between_losses: float = 24.0
    seconds_away: float = 120.0
    seconds_between_checkpoints: float = 60.0
    overhead: float = 0.05
    driver: tuple[float, float] = (0.003, 0.0008)


class Outcome(NamedTuple):
    """A simulated run.

    Args:
        ideal: seconds if all workers were busy with what they are fast enough for, and none was lost.
        makespan: seconds until the last group's rows are written.
        computed: seconds until the last group is computed.
        first_idle: when the first worker found nothing to do.
        busy: seconds that workers computed, in sum, what was lost with a worker left out.
        lost: seconds of work that was done twice.
        retries: groups that a lost worker gave back.
        driver: share of the makespan that the driver works.
    """

    ideal: float
    makespan: float
    computed: float
    first_idle: float
    busy: float
    lost: float
    retries: int
    driver: float


def population(candidates: int, seeds: int, draw: random.Random) -> Protocol:
    """Candidates of one to four layers, whose cost differs by two orders of magnitude."""
    names: dict[str, None] = {}
    while len(names) < candidates:
        depth = draw.randint(1, 4)
        names["-".join(str(8 * round(2 ** draw.uniform(0, 6))) for _ in range(depth))] = None
    return Protocol(candidates=tuple(map(Candidate.parse, names)), seeds=tuple(range(seeds)), precision="fp32")


def simulate(seconds: list[float], members: list[int], workers: int, world: World, draw: random.Random) -> Outcome:
    """Groups of so many seconds on workers, the longest first, each to the first that is free."""
    speeds = [math.exp(draw.gauss(0, world.spread)) for _ in range(workers)]
    loss = 3600 * world.hours_between_losses
    # Work that is left, the longest first; what a lost worker had comes back to it.
    waiting = [(-each * math.exp(draw.gauss(0, world.surprise)), group) for group, each in enumerate(seconds)]
    ideal = -sum(left for left, _ in waiting) / sum(speeds)
    heapq.heapify(waiting)
    breaks = [draw.expovariate(1 / loss) for _ in range(workers)]
    free = [(0.0, worker) for worker in range(workers)]
    heapq.heapify(free)
    # Groups that a lost worker will give back, by the time when that is known.
    returned: list[tuple[float, float, int]] = []
    ends: list[tuple[float, int]] = []
    busy = lost = 0.0
    retries, idle = 0, math.inf
    while waiting or returned:
        now, worker = heapq.heappop(free)
        while returned and returned[0][0] <= now:
            _, left, group = heapq.heappop(returned)
            heapq.heappush(waiting, (-left, group))
        if not waiting:
            idle = min(idle, now)
            heapq.heappush(free, (max(now, returned[0][0]), worker))
            continue
        left, group = heapq.heappop(waiting)
        need = world.overhead + -left / speeds[worker]
        if now + need <= breaks[worker]:
            ends.append((now + need, group))
            busy += need
            heapq.heappush(free, (now + need, worker))
            continue
        gone = max(now, breaks[worker])
        done = gone - now
        kept = done // world.seconds_between_checkpoints * world.seconds_between_checkpoints
        busy, lost, retries = busy + kept, lost + done - kept, retries + 1
        heapq.heappush(returned, (gone, -left - kept * speeds[worker], group))
        back = gone + world.seconds_away
        breaks[worker] = back + draw.expovariate(1 / loss)
        heapq.heappush(free, (back, worker))
    computed = max(end for end, _ in ends)
    idle = min(idle, *(when for when, _ in free))
    written = worked = 0.0
    for end, group in sorted(ends):
        each = world.driver[0] + world.driver[1] * members[group]
        written, worked = max(written, end) + each, worked + each
    return Outcome(ideal, written, computed, min(idle, computed), busy, lost, retries, worked / written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16, 256, 4096])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)  # noqa: S311
    world, machine = World(), Machine("cpu", 2**34)
    protocol = population(asked.candidates, asked.seeds, draw)
    begin = time.process_time()
    plan = make_groups(protocol, SPEC, *SIZES, "fused", machine)
    print(f"{asked.candidates} candidates x {asked.seeds} seeds; planned in {time.process_time() - begin:.0f} s")
    print(
        f"{'workers':>8} {'groups':>7} {'planning':>9} {'ideal':>9} {'predicted':>9} {'makespan':>9} {'tail':>6} "
        f"{'used':>6} {'retries':>7} {'lost':>8} {'driver':>7}"
    )
    found = []
    for workers in asked.workers:
        begin = time.process_time()
        groups = spread(plan, workers, protocol, SPEC, *SIZES, machine)
        planning = time.process_time() - begin
        seconds = [work_of(group, protocol, SPEC, *SIZES, machine) / world.flops for group in groups]
        members = [len(group.members) for group in groups]
        outcome = simulate(seconds, members, workers, world, random.Random(asked.seed))  # noqa: S311
        predicted = schedule(seconds, workers).makespan
        tail = 1 - outcome.first_idle / outcome.computed
        used = outcome.busy / (workers * outcome.makespan)
        row = " ".join(f"{value:>8.0f}s" for value in (outcome.ideal, predicted, outcome.makespan))
        print(
            f"{workers:>8} {len(groups):>7} {planning:>8.1f}s {row} {tail:>6.1%} {used:>6.1%} {outcome.retries:>7} "
            f"{outcome.lost:>7.0f}s {outcome.driver:>7.1%}",
            flush=True,
        )
        found.append({"workers": workers, "groups": len(groups), "tail": tail, **outcome._asdict()})
    if asked.json:
        asked.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
