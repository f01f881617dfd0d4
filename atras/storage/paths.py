"""Paths as people write them: with `~`, and with typing errors."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

MAX_LISTED = 20_000
"""Most names of a folder that are looked at."""

MAX_NAME = 255
"""Characters of a name that are compared: no file system has longer ones."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path in which a leading `~` or `~name` is that user's home; as it is where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (the method raises at an unknown user)


def names_in(folder: Path) -> list[str]:
    """Names in a folder, sorted; of a very large one only some, of none and of one that may not be read nothing."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, MAX_LISTED))
    except (OSError, ValueError):
        return []


def near(name: str, names: list[str], most: int = 3) -> list[str]:
    """Those of some names that are spelled most like one, whatever their case; the nearest first."""
    folded = {each[:MAX_NAME].casefold(): each for each in reversed(names)}
    return [folded[key] for key in difflib.get_close_matches(name[:MAX_NAME].casefold(), folded, n=most)]


def near_misses(path: Path, besides: Iterable[str] = ()) -> str:
    """What a path that is not there may have been meant to be, as the end of a message: `; did you mean data.npz?`.

    The first of its folders that is missing is compared with what is there; empty where nothing is alike.

    Args:
        path: the path.
        besides: further names that would do.
    """
    missing = path
    while missing != missing.parent and not os.path.isdir(missing.parent):  # noqa: PTH112 (the method may raise)
        missing = missing.parent
    shown = {name: str(missing.with_name(name)) for name in names_in(missing.parent)}
    shown |= {name: name for name in besides}
    found = [shown[name] for name in near(missing.name, list(shown))]
    return f"; did you mean {' or '.join(found)}?" if found else ""
