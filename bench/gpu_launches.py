"""What each launch of a training step and of an attack costs on a GPU, and what it would with other tiles.

    python bench/gpu_launches.py --data mnist --out launches.json
    python bench/gpu_launches.py --data mnist --tiles tiles.json --jobs 12 --out launches.json

Launches are recorded as a population makes them and then timed one by one, each repeated within a CUDA graph. A file of
tiles names dicts of `kernels/step/gpu_convolution_tiles.py`, precisions in them, and tiles to try, each as the fields
of `Tile` in their order: {"FORWARD": {"bf16": [[64, 64, 32, 3, 8, 2]]}}. Several processes compile kernels first.
Times are medians over replays, of warm caches: a step's launches find less of their data in the cache.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from atras.data import pixels
from atras.kernels.step import gpu_batch, gpu_convolution_tiles
from gpu_first_run import Card
from peers import Parser

REPEATED = 10  # launches in a graph
REPLAYS = 5


class Launch(NamedTuple):
    """A kernel's launch, as it was recorded."""

    kernel: Any
    compiled: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Module and kernel."""
        return f"{self.kernel.fn.__module__.rpartition('gpu_kernels')[2].strip('_')} {self.kernel.fn.__name__}"

    @property
    def key(self) -> tuple[Any, ...]:
        """What it is by, its tensors aside."""
        numbers = tuple(str(each) for each in self.arguments if not isinstance(each, torch.Tensor))
        return (self.name, self.grid, numbers, tuple(sorted(self.options.items())))

    def again(self) -> None:
        """Launch it once more."""
        self.kernel[self.grid](*self.arguments, **self.options)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """All launches of Triton's kernels within."""
    from triton.runtime.jit import JITFunction

    run, seen = JITFunction.run, []

    def recording(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled = run(kernel, *arguments, grid=grid, warmup=warmup, **options)
        seen.append(Launch(kernel, compiled, grid, arguments, options))
        return compiled

    JITFunction.run = recording
    try:
        yield seen
    finally:
        JITFunction.run = run


def microseconds(call: Callable[[], None]) -> float:
    """Of one launch, within a graph of several."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATED):
            call()
    graph.replay()
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end) / REPEATED)
    return statistics.median(times)


class Population:
    """The networks whose launches are recorded: trained for a step, so that their numbers are what kernels meet."""

    def __init__(self, options: Namespace) -> None:
        self.card = Card(Namespace(data=options.data, fewer=options.fewer, device="cuda"))
        self.made: dict[str, Any] = {}

    def engine(self, precision: str) -> Any:
        """Of one precision, its batches made anew, as tiles are read when they are made."""
        if precision not in self.made:
            self.made[precision] = self.card.engine(precision)
            self.made[precision].epoch(self.card.work(self.card.protocol.batch_size))
        engine = self.made[precision]
        population = engine._op._step
        population._batches.clear()
        population.evaluation._blocks.clear()
        population.graphs.forget()
        return engine

    def launches(self, precision: str, tried: str | None) -> list[Launch]:
        """Of a training step and of an input gradient; those of the tried precision alone where one is."""
        engine = self.engine(precision)
        engine._op._step.graphs.reason = "recorded"
        x = pixels(self.card.data.test.images[:250], torch.float32)
        with recorded() as seen:
            if tried in (None, precision):
                engine.epoch(self.card.work(self.card.protocol.batch_size))
            if tried != precision or precision == "fp32":
                engine.gradient(x, self.card.data.test.labels[:250])
        return seen


def variants(tables: dict[str, dict[str, list[list[int]]]]) -> Iterator[tuple[str, str, gpu_convolution_tiles.Tile]]:
    """Every tile that is to be tried."""
    for table, precisions in tables.items():
        for precision, tiles in precisions.items():
            for tile in tiles:
                yield table, precision, gpu_convolution_tiles.Tile(*tile)


@contextmanager
def tile_of(table: str, precision: str, tile: gpu_convolution_tiles.Tile) -> Iterator[None]:
    """One tile in the place of a table's own."""
    tiles = getattr(gpu_convolution_tiles, table)
    usual = tiles[precision]
    tiles[precision] = tile
    try:
        yield
    finally:
        tiles[precision] = usual


def of_training(precision: str) -> str:
    """The precision of the engine that launches kernels of another: attacks are made in tf32x3 by one in bf16."""
    return precision if precision in gpu_batch.DTYPES and precision != "tf32x3" else "bf16"


def told(launch: Launch, time: float) -> dict[str, Any]:
    """A launch's row."""
    compiled = launch.compiled
    return {
        "kernel": launch.name, "grid": launch.grid[0], "us": round(time, 1), "registers": compiled.n_regs,
        "spills": compiled.n_spills, "shared": compiled.metadata.shared, "warps": compiled.metadata.num_warps,
    }  # fmt: skip


def timed(launches: list[Launch], known: set[Any]) -> list[dict[str, Any]]:
    """Rows of launches that are not known, each with how often it was made; they are known from then on."""
    rows: dict[Any, dict[str, Any]] = {}
    for launch in launches:
        if launch.key in rows:
            rows[launch.key]["times"] += 1
        elif launch.key not in known:
            rows[launch.key] = told(launch, microseconds(launch.again)) | {"times": 1}
    known.update(rows)
    return list(rows.values())


def tries(population: Population, tables: Any, share: tuple[int, int]) -> Iterator[tuple[str, list[Launch] | str]]:
    """Launches with each tile in turn, or why there are none; of so many processes one's share."""
    for number, (table, precision, tile) in enumerate(variants(tables)):
        if number % share[1] != share[0]:
            continue
        name = f"{table} {precision} {tuple(tile)}"
        try:
            with tile_of(table, precision, tile):
                yield name, population.launches(of_training(precision), precision)
        except Exception as error:  # a tile that is too large for the card is one of the answers
            yield name, " ".join(str(error).split())[:160]


def main(argv: list[str] | None = None) -> int:
    """Time the launches that are made, then those with other tiles."""
    parser = Parser("gpu_launches.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="digits", help="a data set's name, or a path; default: digits")
    parser.add_argument("--fewer", type=int, default=1, metavar="K", help="every K-th candidate alone")
    parser.add_argument("--precisions", default="bf16,fp32", help="of the engines that are looked at")
    parser.add_argument("--tiles", type=Path, metavar="FILE", help="tiles to try, JSON")
    parser.add_argument("--jobs", type=int, default=8, metavar="N", help="processes that compile")
    parser.add_argument("--warm", metavar="I/N", help="compile one share of the tiles, and end")
    parser.add_argument("--seconds", type=float, default=120, metavar="S", help="begin no further tile after so long")
    parser.add_argument("--out", type=Path, default=Path("gpu_launches.json"), metavar="FILE", help="where results go")
    options = parser.parse_args(argv)
    tables = json.loads(options.tiles.read_text()) if options.tiles else {}
    if options.warm:
        i, n = map(int, options.warm.split("/"))
        for _ in tries(Population(options), tables, (i, n)):
            pass
        return 0
    began = time.perf_counter()
    if tables:
        command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)]
        jobs = [subprocess.Popen([*command, "--warm", f"{i}/{options.jobs}"]) for i in range(options.jobs)]  # noqa: S603
        for job in jobs:
            job.wait()
        print(f"compiled in {time.perf_counter() - began:.0f} s", flush=True)
    population = Population(options)
    known: set[Any] = set()
    results: dict[str, Any] = {}
    for precision in options.precisions.split(","):
        made: set[Any] = set()  # of another precision, equal launches are made again
        results[precision] = timed(population.launches(precision, None), made)
        known |= made
    for name, found in tries(population, tables, (0, 1)):
        results[name] = timed(found, known) if isinstance(found, list) else found
        options.out.write_text(json.dumps(results, indent=1))
        if time.perf_counter() - began > options.seconds:
            print(f"stopped at {name}")
            break
    options.out.write_text(json.dumps(results, indent=1))
    for name, rows in results.items():
        for row in [rows] if isinstance(rows, str) else rows:
            print(name, row if isinstance(row, str) else " ".join(map(str, row.values())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
