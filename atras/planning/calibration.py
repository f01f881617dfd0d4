"""The speed of an engine on this machine, measured once and kept; the plan's seconds are predicted from it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atras.data import Split, pixels
from atras.engines import Engine, Epoch
from atras.environment import machine_key
from atras.experiment import Protocol
from atras.networks import Candidate, Conv, Member, Network, Residual, Spec, widest

from .calibration_cache import known_or_measured
from .cost import forward_flops, training_flops
from .predicted_seconds import Speed

EPOCH_STEPS = 32
"""Steps of a call that is measured on a GPU, as in an epoch: a step by itself would tell what Python takes."""

MOST_IMAGES = 2048
"""Of a batch that is measured: a larger one takes as long for each image, and memory that the run may not need."""

SMALL = (Candidate((8, 16)),)
LARGE = tuple(Candidate((width, 8 * width)) for width in (32, 64, 96, 128))


def _strided(width: int) -> Candidate:
    """A network most of whose work are convolutions, for images of any size."""
    first, second = (Conv(filters, stride=2, padding=1) for filters in (width, 2 * width))
    return Candidate((first, second, 2 * width))


def _pooled(width: int) -> Candidate:
    """A network most of whose work are 3x3 convolutions without a stride, for images of any size."""
    return Candidate((Conv(width, padding="same", pool="auto"), Conv(4 * width, padding="same", pool="auto")))


SMALL_CONVOLUTIONS = (_strided(4),)
LARGE_CONVOLUTIONS = tuple(map(_strided, (16, 24, 32, 40)))
SMALL_POOLED = (_pooled(4),)
LARGE_POOLED = tuple(map(_pooled, (32, 40)))


def speed(
    engine: type[Engine],
    spec: Spec,
    protocol: Protocol,
    part: Split,
    *,
    candidate: Candidate | None = None,
    anew: bool = False,
) -> Speed:
    """The engine's speed on networks and images like these, from the cache or measured now (a second or two).

    Args:
        engine: class of the engine.
        spec, protocol: stem, image shape, data set, precision, batch size, and whether candidates have convolutions.
        part: images, on the device where it runs: kernels that pass over zeros are faster on dark ones.
        candidate: a module of the user, whose own speed is measured; of all others the speed is that of their kind.
        anew: measure even where the cache has figures.
    """
    factory = None if candidate is None else candidate.factory
    shape = "x".join(map(str, spec.image_shape))
    key = f"{machine_key(part.images.device)}|{engine.name}|{spec.stem_name}|{shape}|{protocol.precision}"
    key += f"|{_batch(protocol)}|{protocol.dataset}" + "|convolutions" * _convolve(protocol)
    key += "|finished" * (not protocol.trains)
    key += "|3x3" * _mostly_3x3(protocol) + "|without stem" * (_convolve(protocol) and spec.stem_auto)

    kind = _kind(protocol) if candidate is None or factory is None else _Kind((candidate,), (candidate,), 2, 1)

    def measure() -> Sequence[float]:
        return dataclasses.astuple(_measure(engine, spec, protocol, part, kind))

    if factory is not None:
        if not factory.sha256:  # another module may go by the same name
            return Speed(*measure())
        key += f"|{factory.name}|{factory.sha256}"
    return Speed(*known_or_measured(key, measure, _is_speed, anew=anew))


class _Kind(NamedTuple):
    """The networks that speed is measured on.

    Args:
        small, large: candidates; a one-by-one engine takes the first of them.
        least: images of a batch.
        calls: that are measured.
    """

    small: tuple[Candidate, ...]
    large: tuple[Candidate, ...]
    least: int = 1
    calls: int = 5


def _kind(protocol: Protocol) -> _Kind:
    if _mostly_3x3(protocol):
        return _Kind(SMALL_POOLED, LARGE_POOLED)
    return _Kind(SMALL_CONVOLUTIONS, LARGE_CONVOLUTIONS) if _convolve(protocol) else _Kind(SMALL, LARGE)


def _measure(engine: type[Engine], spec: Spec, protocol: Protocol, part: Split, kind: _Kind) -> Speed:
    small, large = kind.small, kind.large[:1] if engine.one_by_one else kind.large
    batches = (max(kind.least, _batch(protocol) // 16), max(kind.least, _batch(protocol)))
    times, flops = [], []
    for candidates, batch in zip((small, large), batches, strict=True):
        times.append(_call_seconds(engine, candidates, spec, protocol, part, batch, kind.calls))
        flops.append(len(candidates) * training_flops(Network(spec, widest(candidates))) * batch)
    (small_step, *_), (step, logits, gradient) = times
    rate = max(flops[1] - flops[0], 1) / max(step - small_step, 0.1 * step)
    step_seconds = max(small_step - flops[0] / rate, 0.0)
    forward = len(large) * forward_flops(Network(spec, widest(large))) * batches[1]

    def per_second(work: float, seconds: float) -> float:
        return max(work, 1) / max(seconds - step_seconds, 0.1 * seconds)

    return Speed(step_seconds, rate, per_second(forward, logits), per_second(2 * forward, gradient))


def _batch(protocol: Protocol) -> int:
    """Images of the larger batch that is measured."""
    return min(protocol.batch_size, MOST_IMAGES)


def _convolve(protocol: Protocol) -> bool:
    """Whether candidates have convolutions of their own, whose speed is not that of dense layers."""
    return any(isinstance(layer, Conv | Residual) for candidate in protocol.candidates for layer in candidate.layers)


def _mostly_3x3(protocol: Protocol) -> bool:
    """Whether most convolutions of candidates are 3x3 without a stride, where engine fused takes fewer products than
    are counted."""
    own = [layer for candidate in protocol.candidates for layer in candidate.layers if isinstance(layer, Conv)]
    return 2 * sum((layer.kernel, layer.stride) == (3, 1) for layer in own) > len(own)


def _call_seconds(
    engine: type[Engine],
    candidates: Sequence[Candidate],
    spec: Spec,
    protocol: Protocol,
    part: Split,
    batch: int,
    calls: int,
) -> tuple[float, float, float]:
    """Median seconds of a step, and of logits and gradients of each member's own images, after a warm-up; those of a
    gradient for a step that nobody takes."""
    steps = EPOCH_STEPS if part.images.device.type == "cuda" else 1
    trained = protocol if steps == 1 else protocol.replace(batch_size=batch)
    group = engine(spec, [Member(candidate, 0) for candidate in candidates], trained, part.images.device)
    if protocol.trains:
        group.begin_phase("train", steps * (NOT_COUNTED + calls))
    chosen = torch.arange(batch, device=part.images.device) % len(part)
    images, labels = pixels(part.images[chosen], group.dtype), part.labels[chosen]
    own = images.expand(len(candidates), *images.shape).contiguous()
    logits = median_seconds(lambda: group.logits(own).sum(), calls)
    gradient = median_seconds(lambda: group.gradient(own, labels)[0].sum(), calls)
    step = step_seconds(group, part, batch, steps, calls) if protocol.trains else gradient
    return step, logits, gradient


def step_seconds(group: Engine, part: Split, batch: int, steps: int, calls: int) -> float:
    """Median seconds of a training step: of one by itself, or a share of an epoch of so many."""
    device = part.images.device
    chosen = torch.arange(batch, device=device) % len(part)
    images, labels = part.images[chosen], part.labels[chosen]
    if steps == 1:
        seen = pixels(images, group.dtype)
        return median_seconds(lambda: group.step(seen, labels).losses, calls)
    order = torch.arange(steps * batch, device=device)[None] % batch
    same = torch.zeros(len(group.members), dtype=torch.int64, device=device)
    work = Epoch(images, labels, order, same, None, 0.0)
    return median_seconds(lambda: group.epoch(work).losses, calls) / steps


NOT_COUNTED = 2
"""Calls before those that are measured."""


def median_seconds(call: Callable[[], Tensor], calls: int = 5) -> float:
    """Of so many calls, after those that are not counted."""
    taken = []
    for _ in range(NOT_COUNTED + calls):
        start = time.perf_counter()
        call().tolist()
        taken.append(time.perf_counter() - start)
    return sorted(taken[NOT_COUNTED:])[calls // 2]


def _is_speed(values: Sequence[float]) -> bool:
    """Whether these are seconds of a step and FLOPs a second that a machine can have."""
    if len(values) != len(dataclasses.fields(Speed)):
        return False
    return 0 <= values[0] <= 3600 and all(1 <= rate <= 1e18 for rate in values[1:])
