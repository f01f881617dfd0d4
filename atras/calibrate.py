"""How fast an engine is on this machine, measured once and kept: what the plan's seconds are predicted from."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from .cost import padded, training_flops
from .download import cache_dir
from .engine import Engine, Member
from .env import machine_key
from .model import Spec
from .plan import Speed
from .protocol import Protocol
from .space import Candidate

SMALL = (Candidate((8, 16)),)
LARGE = tuple(Candidate((width, 8 * width)) for width in (32, 64, 96, 128))


def speed(engine: type[Engine], spec: Spec, protocol: Protocol, device: torch.device, *, anew: bool = False) -> Speed:
    """The engine's speed on networks like these, from the cache or measured now (a second or two).

    Args:
        engine: class of the engine.
        spec, protocol: stem, image shape, precision and batch size.
        device: where it runs.
        anew: measure even where the cache has figures.
    """
    shape = "x".join(map(str, spec.image_shape))
    key = f"{machine_key(device)}|{engine.name}|{spec.stem}|{shape}|{protocol.precision}|{protocol.batch_size}"
    known = _read()
    found = known.get(key)
    if not anew and isinstance(found, list) and len(found) == 2:
        return Speed(*found)
    measured = _measure(engine, spec, protocol, device)
    _write(known | {key: [measured.step_seconds, measured.flops_per_second]})
    return measured


def _measure(engine: type[Engine], spec: Spec, protocol: Protocol, device: torch.device) -> Speed:
    large = LARGE[:1] if engine.name == "loop" else LARGE
    batches = (max(1, protocol.batch_size // 16), protocol.batch_size)
    times, flops = [], []
    for candidates, batch in zip((SMALL, large), batches, strict=True):
        times.append(_step_seconds(engine, candidates, spec, protocol, device, batch))
        widths = padded([candidate.hidden for candidate in candidates])
        flops.append(len(candidates) * training_flops(spec, widths) * batch)
    rate = (flops[1] - flops[0]) / max(times[1] - times[0], 0.1 * times[1])
    return Speed(max(times[0] - flops[0] / rate, 0.0), rate)


def _step_seconds(
    engine: type[Engine],
    candidates: Sequence[Candidate],
    spec: Spec,
    protocol: Protocol,
    device: torch.device,
    batch: int,
) -> float:
    """Median seconds of a few steps after a warm-up."""
    group = engine(spec, [Member(candidate, 0) for candidate in candidates], protocol, device)
    group.begin_phase("train")
    images = torch.rand(batch, *spec.image_shape, device=device, dtype=group.dtype)
    labels = torch.arange(batch, device=device) % spec.classes
    taken = []
    for _ in range(7):
        start = time.perf_counter()
        group.step(images, labels).losses.tolist()
        taken.append(time.perf_counter() - start)
    return sorted(taken[2:])[2]


def _path() -> Path:
    return cache_dir() / "calibration.json"


def _read() -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        values = json.loads(_path().read_text())
        if isinstance(values, dict):
            return values
    return {}


def _write(values: dict[str, object]) -> None:
    """Replace the cache in one step; a cache that cannot be written is only measured again."""
    with contextlib.suppress(OSError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=_path().parent, delete=False) as file:
            json.dump(values, file, indent=1)
        Path(file.name).replace(_path())
