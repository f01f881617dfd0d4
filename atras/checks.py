"""Checks of single values, each with one line about what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .errors import InputError, shown
from .version import SCHEMA

MOST_OF_A_RANGE = 1_000_000
"""Most numbers that are taken out of a range: past it a mistake is likelier than a wish."""


def plain(value: Any) -> Any:
    """A value in Python's own types, whatever usual one a caller has it in.

    Args:
        value: anything.

    Returns:
        Numbers out of numpy as Python's; lists, ranges and arrays as tuples, with their numbers likewise; all else as
        it is.
    """
    value = _number(value)
    if isinstance(value, range):
        value = value[:MOST_OF_A_RANGE]
    return tuple(_number(item) for item in value) if type(value) in (list, tuple, range) else value


def _number(value: Any) -> Any:
    """A scalar or an array of numpy, which need not be installed, in Python's types."""
    return value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value


def one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a value that is not among the allowed ones."""
    names = tuple(allowed)
    if value not in names:
        raise InputError(f"{name} (={shown(value)}): expected one of {', '.join(names)}")


def whole(name: str, value: object, low: int, high: int) -> None:
    """Refuse anything but a whole number from low to high."""
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{name} (={shown(value)}): expected a whole number from {low} to {high}")


def number(name: str, value: object, low: float, high: float) -> None:
    """Refuse anything but a finite number from low to high."""
    # NaN is in no range, and a comparison, unlike a conversion, takes whole numbers of any size.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{name} (={shown(value)}): expected a number from {low:g} to {high:g}")


def text(name: str, value: object) -> None:
    """Refuse anything but text."""
    if not isinstance(value, str):
        raise InputError(f"{name} (={shown(value)}): expected text")


def truth(name: str, value: object) -> None:
    """Refuse anything but True and False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} (={shown(value)}): expected True or False")


def distinct(name: str, values: object, check: Callable[[object], None]) -> None:
    """Refuse anything but a tuple of at least one, of different values that all pass a check."""
    if not isinstance(values, tuple) or not values:
        raise InputError(f"{name} (={shown(values)}): expected a tuple of at least one; name one")
    seen: set[object] = set()
    for value in values:
        check(value)
        if value in seen:
            raise InputError(f"{name}: {getattr(value, 'name', value)} came twice; name each once")
        seen.add(value)


def schema(record: Mapping[str, Any]) -> None:
    """Refuse the content of a run.json or search.json that was written under another schema."""
    written = record.get("schema")
    if type(written) is not int or written != SCHEMA:
        which = "an earlier schema" if written is None else f"schema {shown(written)}"
        raise InputError(
            f"schema: expected {SCHEMA}, but this was written by {which} of atras; run it again with its settings"
        )
