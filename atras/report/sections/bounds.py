"""Norms and epsilons in words: `L-infinity 8/255`, and the axis of a chart of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from atras.report.charts import Axis, linear

_NORMS = {"linf": "L-infinity", "l2": "L2", "l1": "L1", "l0": "L0"}
_NEAR = 0.02
"""Steps of 1/255 that an epsilon may be off to be called after them: it is often written with four decimals."""


def norm_text(norm: str) -> str:
    """A norm as readers know it, such as `L-infinity`."""
    return _NORMS.get(norm, norm)


def steps_of_255(epsilon: float) -> int | None:
    """How many steps of 1/255 an epsilon is; None where it is none, or a round decimal that is meant as such."""
    steps = round(255 * epsilon)
    if steps < 1 or abs(255 * epsilon - steps) > _NEAR or round(epsilon, 2) == epsilon:
        return None
    return steps


def epsilon_text(epsilon: float) -> str:
    """An epsilon such as `0.05`, or `8/255` where it is that."""
    steps = steps_of_255(epsilon)
    return f"{epsilon:g}" if steps is None else f"{steps}/255"


def ball_text(norm: str, epsilon: float) -> str:
    """What an attack is bounded by, such as `L-infinity 8/255`."""
    return f"{norm_text(norm)} {epsilon_text(epsilon)}"


def epsilon_axis(norm: str, values: Sequence[float]) -> Axis:
    """The scale of epsilons; where all are steps of 1/255, its ticks are as well.

    Args:
        norm: of the changes.
        values: epsilons, 0 among them for clean images.
    """
    axis = linear(f"epsilon: {norm_text(norm)}, pixels in [0, 1]", values, 0)
    known = sorted({value for value in values if value > 0})
    if not known or any(steps_of_255(value) is None for value in known):
        return axis
    ticks = ((0.0, "0"), *((value, epsilon_text(value)) for value in known))
    return dataclasses.replace(axis, ticks=ticks)
