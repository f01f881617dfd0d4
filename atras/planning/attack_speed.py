"""What the steps of attacks take beside their passes through the networks, measured once and kept."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from atras.attacks import Attack, Start
from atras.data import Split, pixels
from atras.engines import Engine, LoopEngine
from atras.environment import machine_key
from atras.experiment import Protocol
from atras.networks import Member, Spec

from .calibration import SMALL, median_seconds
from .calibration_cache import known_or_measured
from .predicted_seconds import AttackSpeed

STEPS = (2, 10)
"""Of the two attacks whose times are compared: what comes before the first step is in both."""

MEMBERS = 4
IMAGES = (4, 128)
"""Images of few pairs and of many."""


def attack_speed(
    engine: type[Engine], spec: Spec, protocol: Protocol, part: Split, attack: Attack, *, anew: bool = False
) -> AttackSpeed:
    """The speed of an attack that is made of no others, from the cache or measured now (half a second).

    Args:
        engine, spec, protocol, part, anew: as of `speed`.
        attack: of one that has no steps nothing is measured, and all is 0.
    """
    brief = [shorter for steps in STEPS if (shorter := attack.brief(steps)) is not None]
    if not brief:
        return AttackSpeed(0.0, 0.0)
    if engine.takes_modules:  # beside its passes an attack is the same, whatever is attacked
        engine = LoopEngine
    shape = "x".join(map(str, spec.image_shape))
    key = f"{machine_key(part.images.device)}|{engine.name}|{spec.stem_name}|{shape}|{protocol.dataset}|{brief[0]}"

    def measure() -> Sequence[float]:
        return _measure(engine, spec, protocol, part, brief)

    return AttackSpeed(*known_or_measured(key, measure, _is_attack_speed, anew=anew))


def _measure(engine: type[Engine], spec: Spec, protocol: Protocol, part: Split, brief: Sequence[Attack]) -> AttackSpeed:
    """From few pairs and from many, of small networks, whose passes take little beside."""
    count = 1 if engine.one_by_one else MEMBERS
    group = engine(spec, [Member(SMALL[0], seed) for seed in range(count)], protocol, part.images.device)
    few, many = (min(images, len(part)) for images in IMAGES)
    low, high = (_beside_passes(group, pixels(part.images[:images], group.dtype), *brief) for images in (few, many))
    pair = max(high - low, 0.0) / (count * max(many - few, 1))
    return AttackSpeed(max(low - count * few * pair, 0.0), pair)


def _beside_passes(group: Engine, images: Tensor, short: Attack, long: Attack) -> float:
    """Seconds for each pass, beside the pass."""
    labels = group.logits(images).argmax(-1)  # that all are attacked, each is what the networks say
    own = images.expand(*labels.shape, *images.shape[1:]).contiguous()
    less, more = (each.cost(group.classes) for each in (short, long))
    forward, gradient = more.forward - less.forward, more.gradient - less.gradient
    if not forward + gradient:  # the cost of DeepFool is that of an image as they usually are, whatever its steps
        return 0.0
    passes = forward * median_seconds(lambda: group.logits(own).sum()) if forward else 0.0
    passes += gradient * median_seconds(lambda: group.gradient(own, labels)[0].sum()) if gradient else 0.0
    seconds = _seconds(group, images, labels, long) - _seconds(group, images, labels, short)
    return max(seconds - passes, 0.0) / (forward + gradient)


def _seconds(group: Engine, images: Tensor, labels: Tensor, attack: Attack) -> float:
    """The shorter time of two calls."""
    start = Start(targets=(labels + 1) % group.classes if attack.target == "random" else None)
    taken = []
    for _ in range(2):
        begin = time.perf_counter()
        attack(group, images, labels, start=start).clipped.sum().item()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def _is_attack_speed(values: Sequence[float]) -> bool:
    return len(values) == len(AttackSpeed._fields) and all(0 <= seconds <= 3600 for seconds in values)
