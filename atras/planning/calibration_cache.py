"""Figures measured on this machine, kept in a file of the user's cache; one that is damaged is only measured again."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from atras.data import cache_dir
from atras.errors import InputError
from atras.storage import read_regular

MAX_BYTES = 2**20
"""Largest cache that is read: an entry takes some hundred bytes."""


def known_or_measured(
    key: str, measure: Callable[[], Sequence[float]], possible: Callable[[Sequence[float]], bool], *, anew: bool
) -> tuple[float, ...]:
    """The figures under a key, from the cache or measured now.

    Args:
        key: what they are of.
        measure: gives them.
        possible: whether figures from the cache can be true.
        anew: measure even where the cache has them.
    """
    known = _read()
    if not anew and key in known and possible(known[key]):
        return known[key]
    measured = tuple(map(float, measure()))
    _write(known | {key: measured})
    return measured


def _path() -> Path:
    return cache_dir() / "calibration.json"


def _read() -> dict[str, tuple[float, ...]]:
    """What is in the cache and has the form of figures: it may be damaged, or nobody's."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        values = json.loads(read_regular(_path(), MAX_BYTES))
        if isinstance(values, dict):
            return {key: tuple(map(float, value)) for key, value in values.items() if _are_numbers(value)}
    return {}


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(item) in (int, float) and abs(item) <= 1e300 for item in value)


def _write(figures: dict[str, tuple[float, ...]]) -> None:
    """Replace the cache in one step; where that cannot be done, nothing is lost."""
    with contextlib.suppress(OSError, InputError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="calibration-", dir=_path().parent) as folder:
            written = Path(folder) / _path().name
            written.write_text(json.dumps(figures, indent=1))
            written.replace(_path())
