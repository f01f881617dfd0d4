"""Files from anywhere, read without waiting and without surprises in size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from atras.limits import memory

MAX_FILE_BYTES = 64 * 2**30
"""Most bytes a file may have, where that is less than half of the memory that this process may use."""


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; False also where one may not look or the name is no name."""
    return os.path.isfile(path)  # noqa: PTH113 (the method raises then)


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder; False also where one may not look or the name is no name."""
    return os.path.isdir(path)  # noqa: PTH112 (the method raises then)


def open_regular(path: Path, limit: int) -> BinaryIO:
    """Open a file that is one: a FIFO would be waited for, a device may never end.

    Args:
        path: the file.
        limit: most bytes it may have.

    Raises:
        OSError: if it cannot be opened, is of another kind or has more bytes; `strerror` says which.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (the method takes no opener)
    status = os.fstat(file.fileno())
    reason = ""
    if not stat.S_ISREG(status.st_mode):
        reason = "it is no regular file"
    elif status.st_size > limit:
        reason = f"it has {status.st_size} bytes, of which {limit} are allowed"
    if reason:
        file.close()
        raise OSError(errno.EINVAL, reason, str(path))
    return file


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        OSError: as `open_regular`, and if the file grows or shrinks meanwhile.
    """
    with open_regular(path, limit) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)
    if len(content) != size:
        raise OSError(errno.EINVAL, "it changed while it was read", str(path))
    return content


def _without_waiting(path: str, flags: int) -> int:
    # Opened as usual, a FIFO that nobody writes to holds the program for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def memory_limit() -> int:
    """Most bytes that a file may have whose size nothing else bounds: what this process cannot hold is not begun."""
    try:
        return min(MAX_FILE_BYTES, memory().amount // 2)
    except (AttributeError, OSError, ValueError):
        return MAX_FILE_BYTES
