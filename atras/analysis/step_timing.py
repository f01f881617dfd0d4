"""The time of one training step of one network by itself, by which "smaller is faster" is judged."""

from __future__ import annotations

import json
import os
import statistics
import time

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


def measured_steps(results: Results) -> dict[str, float]:
    """Seconds of a training step by candidate, as `measure_steps` left them; none where it did not run.

    Raises:
        InputError: if the file is not what it wrote.
    """
    path = results.directory and results.directory / STEP_TIMES
    if path is None or not os.path.lexists(path):
        return {}
    try:
        content = read_regular(path, MAX_BYTES)
        check_checksum(JSON_MARK, content)
        return {str(name): float(value) for name, value in json.loads(content)["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: expected measured steps, found something else ({error}); --measure anew") from None


def measure_steps(results: Results, *, steps: int = 20) -> dict[str, float]:
    """Time a training step of every candidate, one at a time in engine loop or modules, and keep it with the run.

    Images are noise of the run's shape and batch size: a step's time does not depend on what they show.

    Args:
        results: a run in a folder.
        steps: timed after a few to warm up; the median counts.

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
    protocol = Protocol(precision="fp32", **kept)
    noise = torch.Generator(device="cpu").manual_seed(0)
    shape = protocol.batch_size, *spec.image_shape
    images = torch.rand(*shape, generator=noise, dtype=torch.float32, device="cpu").to(device)
    labels = torch.randint(spec.classes, shape[:1], generator=noise, dtype=torch.int64, device="cpu").to(device)
    seconds = {}
    for name in results.table["hidden_layers"].unique(maintain_order=True):
        candidate = results.candidate(name)
        engine = (ModulesEngine if candidate.complete else LoopEngine)(spec, [Member(candidate, 0)], protocol, device)
        engine.begin_phase("train")
        seconds[name] = _median_step(engine, images, labels, steps)
    content = {"batch_size": protocol.batch_size, "steps": steps, "environment": describe(device), "seconds": seconds}
    write_file(results.directory / STEP_TIMES, [json_with_checksum(content)])
    return seconds


def _median_step(engine: LoopEngine, images: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
    taken = []
    for _ in range(steps + 3):
        start = time.perf_counter()
        engine.step(images, labels).losses.tolist()  # reading them waits for the device
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[3:])
