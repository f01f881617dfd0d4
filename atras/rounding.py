"""Figures as text, rounded alike wherever a reader meets them: in the terminal, in reports and in messages."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

_KNOWN = Decimal("1e-12")
"""What sums of float64 leave of a share that is a ratio of counts, such as 31 / 400, is below this."""


def decimals(value: float, places: int, *, signed: bool = False) -> str:
    """A number with so many decimals, halves away from zero.

    A mean of counts is a ratio of whole numbers, such as 0.0775, which float64 holds a little above or below itself, as
    the sum goes. Formats round that noise: one figure would be 0.077 here and 0.078 there. So the noise goes first.

    Args:
        value: any number.
        places: decimals, at most 11.
        signed: write the plus of what is above 0 too.

    Returns:
        Such as `0.078`; nothing is never minus nothing.
    """
    if not abs(value) < 1e9:  # of these no decimals are known, or they are none
        return f"{value:{'+' if signed else ''}.{places}f}"
    exact = Decimal(value).quantize(_KNOWN)
    text = exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    text = text if text else abs(text)
    return f"{text:+f}" if signed else f"{text:f}"


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    Args:
        count: the number.
        noun: in the singular, with a plural in s.

    Returns:
        Such as `1 seed` or `2 seeds`.
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
