"""Checks of numbers in a range, for options."""

from __future__ import annotations

from atras.checks import number, whole

from .option import Check


def whole_from(low: int, high: int) -> Check:
    """The check of a whole number in a range."""
    return lambda name, value: whole(name, value, low, high)


def number_from(low: float, high: float) -> Check:
    """The check of a finite number in a range."""
    return lambda name, value: number(name, value, low, high)
