"""Arrays too large for memory, in files without a name: they are gone with the process, however it ends."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atras.errors import InputError

USUAL = Path("/var/tmp")  # noqa: S108 (a file without a name has no name that others could take)
"""Where large temporary files belong: /tmp is in memory on many machines."""


def scratch_folder() -> Path:
    """Where scratch files lie: $TMPDIR where that is set, else /var/tmp, else where temporary files usually lie."""
    if not os.environ.get("TMPDIR") and os.access(USUAL, os.W_OK | os.X_OK):
        return USUAL
    return Path(tempfile.gettempdir())


def scratch_array(shape: Sequence[int], dtype: np.typing.DTypeLike) -> np.ndarray:
    """An array of zeros in a file without a name, of which the system keeps in memory what there is room for.

    Its place on the disk is taken at once: later there would be no error, but a signal that ends the process.

    Args:
        shape, dtype: of the array.

    Raises:
        InputError: if there is no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    folder = scratch_folder()
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="atras-") as file:
            _take_room(file.fileno(), size)
            return np.asarray(np.memmap(file, dtype, "r+", shape=tuple(shape)))
    except OSError as error:
        raise InputError(
            f"{folder}: expected room for {size / 2**20:.0f} MiB while the run lasts, found none ({error.strerror}); "
            "free some, or set TMPDIR to another folder"
        ) from None


def _take_room(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.truncate(file, size)  # systems that cannot take room beforehand


def in_file(array: np.ndarray) -> bool:
    """Whether an array's numbers lie in a file that is mapped into memory."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap):
            return True
        owner = owner.base
    return False
