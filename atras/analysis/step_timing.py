"""The time of one training step of one network by itself, by which "smaller is faster" is judged."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable

import torch

from atras.engines import LoopEngine, ModulesEngine
from atras.environment import choose_device, describe
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Member, Spec
from atras.results import Results
from atras.storage import JSON_MARK, check_checksum, json_with_checksum, read_regular, write_file

STEP_TIMES = "step_times.json"
"""File of a run's folder that holds measured seconds of a training step, candidate by candidate."""

MAX_BYTES = 2**26
"""Largest such file that is read."""


ROUNDS = 5
"""Turns that each candidate gets: what slows the machine for a while slows all alike, and the best turn counts."""

STEADY = 1.5
"""Most that the slowest turn may take of the fastest, for half of the candidates, on an idle machine."""


def measured_steps(results: Results) -> dict[str, float]:
    """Seconds of a training step by candidate, as `measure_steps` left them; none where it did not run.

    Raises:
        InputError: if the file is not what it wrote.
    """
    return _kept(results)["seconds"]


def timing_caution(results: Results) -> str:
    """Why measured seconds are not to be trusted; empty where they are, or there are none.

    Raises:
        InputError: as `measured_steps`.
    """
    spreads = sorted(_kept(results)["spread"].values())
    if not spreads or (typical := statistics.median(spreads)) <= STEADY:
        return ""
    return (
        f"step times: the machine was busy: turns of one network differ by a factor of {typical:.1f} (up to "
        f"{spreads[-1]:.1f}); measure again when it is idle"
    )


def _kept(results: Results) -> dict[str, dict[str, float]]:
    """What the file of a run has of each candidate: seconds, and their spread."""
    path = results.directory and results.directory / STEP_TIMES
    if path is None or not os.path.lexists(path):
        return {"seconds": {}, "spread": {}}
    try:
        content = read_regular(path, MAX_BYTES)
        check_checksum(JSON_MARK, content)
        kept = json.loads(content)
        found = {"seconds": kept["seconds"], "spread": kept.get("spread", {})}
        return {key: {str(name): float(value) for name, value in own.items()} for key, own in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: expected measured steps, found something else ({error}); --measure anew") from None


def measure_steps(
    results: Results, *, steps: int = 7, told: Callable[[float], None] = lambda _: None
) -> dict[str, float]:
    """Time a training step of every candidate, one at a time in engine loop or modules, and keep it with the run.

    Images are noise of the run's shape and batch size, at most as many as it was trained on: a step's time does not
    depend on what they show. The candidates take turns, and of a candidate's turns the fastest counts.

    Args:
        results: a run in a folder.
        steps: of a turn, timed after a few to warm up; their median counts.
        told: the share of all turns that is done, from 0 to 1.

    Returns:
        Seconds by candidate.

    Raises:
        InputError: if the run is in memory only, or its folder cannot be written.
    """
    if results.directory is None:
        raise InputError("results: expected a run in a folder, got one in memory; run with --out")
    device = choose_device("auto")
    spec = Spec(**results.run["model"])
    kept = {name: results.run["protocol"][name] for name in ("batch_size", "optimizer", "learning_rate", "momentum")}
    trained_on = (results.run.get("data") or {}).get("train_size") or kept["batch_size"]
    protocol = Protocol(precision="fp32", **kept | {"batch_size": min(kept["batch_size"], trained_on)})
    noise = torch.Generator(device="cpu").manual_seed(0)
    shape = protocol.batch_size, *spec.image_shape
    images = torch.rand(*shape, generator=noise, dtype=torch.float32, device="cpu").to(device)
    labels = torch.randint(spec.classes, shape[:1], generator=noise, dtype=torch.int64, device="cpu").to(device)
    names = results.table["hidden_layers"].unique(maintain_order=True).to_list()
    turns: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(ROUNDS):
        for place, name in enumerate(names):  # an engine is made anew in each round: those of thousands would not fit
            candidate = results.candidate(name)
            kind = ModulesEngine if candidate.complete else LoopEngine
            engine = kind(spec, [Member(candidate, 0)], protocol, device)
            engine.begin_phase("train", steps)
            turns[name].append(_median_step(engine, images, labels, steps))
            told((turn * len(names) + place + 1) / (ROUNDS * len(names)))
    seconds = {name: min(taken) for name, taken in turns.items()}
    content = {
        "batch_size": protocol.batch_size, "steps": steps, "rounds": ROUNDS, "environment": describe(device),
        "seconds": seconds, "spread": {name: max(taken) / min(taken) for name, taken in turns.items()},
    }  # fmt: skip
    write_file(results.directory / STEP_TIMES, [json_with_checksum(content)])
    return seconds


def _median_step(engine: LoopEngine, images: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
    taken = []
    for _ in range(steps + 3):
        start = time.perf_counter()
        engine.step(images, labels).losses.tolist()  # reading them waits for the device
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[3:])
