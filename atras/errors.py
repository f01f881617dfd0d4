"""The one error of a user's input, the end of a run that was asked to stop, and how foreign text is shown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

MAX_SHOWN = 200
"""Most characters of a value that an error shows."""

MAX_MESSAGE = 4000
"""Most characters of a message."""


class InputError(ValueError):
    """Input that atras cannot use.

    The message is one printable line that names what was expected, what came and what to do. The command line prints
    it and exits with status 2; it never becomes a traceback there.

    Args:
        message: the text; line breaks in it (a file's name may hold some) become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_shortened(printable(" ".join(message.splitlines())), MAX_MESSAGE))


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: what is no visible character becomes its Python escape.

    File names and foreign results can hold escape sequences, characters that reverse the line, and bytes that are no
    text at all, which standard output would refuse.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """A value as an error shows it: its `repr`, shortened where it is long."""
    try:
        return _shortened(repr(value), MAX_SHOWN)
    except ValueError:
        return "more digits than Python prints"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length // 2]} ... {text[-length // 2 :]}"


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """A run stopped because it was asked to; all that it had done is kept, if it has a folder."""

    def __init__(
        self, message: str = "the run was asked to stop; if it has a folder, atras.resume(folder) goes on with it"
    ) -> None:
        super().__init__(message)


def wrapped(lines: Iterable[str], width: int) -> list[str]:
    """Sentences broken at spaces, for a terminal of so many columns; further lines of each are indented by two more."""
    found = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        found += textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
    return found
