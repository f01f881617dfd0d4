"""Scales with ticks at round numbers, and figures as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from atras.rounding import decimals

MAX_TICKS = 7


@dataclass(frozen=True)
class Axis:
    """A scale; `linear`, `logarithmic` and `categories` build one.

    Args:
        label: its name.
        low, high: its ends.
        ticks: value and text of each tick.
        log: whether it is logarithmic.
        names: those of a scale of names, the first at 0.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    names: tuple[str, ...] = ()

    def share(self, value: float) -> float:
        """The place of a value on the scale.

        Args:
            value: positive on a logarithmic scale.

        Returns:
            0 at the low end and 1 at the high one.
        """
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low)

    def text(self, value: float) -> str:
        """A value as the data table shows it.

        Args:
            value: any; on a scale of names the nearest one counts.

        Returns:
            The text.
        """
        return self.names[round(value)] if self.names else number(value)


def linear(label: str, values: Iterable[float | None], least: float | None = None, most: float | None = None) -> Axis:
    """A linear scale with ticks at round numbers.

    Args:
        label: its name.
        values: those it has to hold; None is left out.
        least, most: bounds that it does not pass.

    Returns:
        The scale.
    """
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    step = _step(low, high)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if high - low < step:
        low, high = low - step, high + step
    low, high = max(low, -math.inf if least is None else least), min(high, math.inf if most is None else most)
    ticks = [
        round(index * step, 12) for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]
    return Axis(label, low, high, tuple((tick, f"{tick:.6g}") for tick in ticks))


def logarithmic(label: str, values: Sequence[float]) -> Axis:
    """A logarithmic scale with ticks at 1, 2 and 5 times powers of ten.

    Args:
        label: its name.
        values: those it has to hold, at least one, all positive.

    Returns:
        The scale.
    """
    low, high = min(values) / 1.25, max(values) * 1.25
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [tick for power in exponents for tick in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)]
    inside = [tick for tick in ticks if low <= tick <= high] or [math.sqrt(low * high)]
    while len(inside) > MAX_TICKS:
        inside = inside[::3] if len(inside) % 3 == 1 else inside[::2]
    return Axis(label, low, high, tuple((tick, short(tick)) for tick in inside), log=True)


def categories(label: str, names: Sequence[str]) -> Axis:
    """A scale of names, the first at 0.

    Args:
        label: its name.
        names: in their order.

    Returns:
        The scale.
    """
    ticks = tuple((float(index), name) for index, name in enumerate(names))
    return Axis(label, -0.5, len(names) - 0.5, ticks, names=tuple(names))


def number(value: float | None) -> str:
    """A figure as tables show it.

    Args:
        value: the figure, or None.

    Returns:
        Four decimals, or none for a whole number from 2 on; a dash where there is no finite figure.
    """
    if value is None or not math.isfinite(value):
        return "-"
    return str(int(value)) if value == int(value) and abs(value) >= 2 else decimals(value, 4)


def rounded(value: float | None) -> str:
    """A share as sentences and the first table show it.

    Args:
        value: the share, or None.

    Returns:
        Three decimals; a dash where there is no finite figure.
    """
    return "-" if value is None or not math.isfinite(value) else decimals(value, 3)


def interval(low: float | None, high: float | None) -> str:
    """An interval as tables show it.

    Args:
        low, high: its ends, or None.

    Returns:
        Such as `0.5 to 0.6`, with the decimals of `number`; a dash where there is none.
    """
    return "-" if low is None or high is None else f"{number(low)} to {number(high)}"


def short(count: float) -> str:
    """A count in few characters.

    Args:
        count: a positive number.

    Returns:
        Such as 8170, 50k or 1.4M.
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 10 * size or (count >= size and count % size == 0) or (unit == "M" and count >= size):
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}" if count < 1000 else f"{count:.0f}"


def _step(low: float, high: float) -> float:
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / MAX_TICKS))
    return next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= MAX_TICKS - 1)
