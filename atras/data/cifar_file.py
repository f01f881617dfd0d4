"""The reader of CIFAR's pickled batches."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from atras.errors import InputError
from atras.storage import read_regular

from .file_contents import Contents, damage_named, md5_of

MAX_CIFAR_BYTES = 2**28
"""Most bytes of a pickled CIFAR batch; the largest official one has 155 million."""


def read_cifar(path: Path, md5: frozenset[str], label_key: str) -> tuple[Contents, np.ndarray]:
    """Read one pickled batch of the official CIFAR-10 or CIFAR-100 archive.

    Args:
        path: the batch, such as `cifar-10-batches-py/data_batch_1`.
        md5: the official checksums of that batch. Any other file is not unpickled.
        label_key: `labels` or `fine_labels`.

    Returns:
        Images uint8 [N, 32, 32, 3] with their checksums, and labels int64 [N].

    Raises:
        InputError: if the checksum is another one, or the batch holds something else.
    """
    with damage_named(path, "a pickled CIFAR batch"):
        stored = read_regular(path, MAX_CIFAR_BYTES)
        digest = md5_of(stored)
        if digest not in md5:
            raise InputError(
                f"{path}: expected MD5 {' or '.join(md5)}, got {digest}; a pickle can run code, so only the official "
                "one is opened: delete it to have it downloaded again, or give the images as an .npz file"
            )
        batch = _PlainUnpickler(io.BytesIO(stored), encoding="latin1").load()
        images, labels = batch["data"], np.array(batch[label_key], np.int64)
        images = images.reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1)
    return Contents(images, hashlib.sha256(stored).hexdigest(), digest), labels


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles plain Python values and numpy arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            # The module was renamed in numpy 2; an array itself knows the function under either name.
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module == "_codecs" and name == "encode":
            return _encode_latin1
        raise pickle.UnpicklingError(f"{module}.{name}, which is neither a plain value nor a numpy array")


def _encode_latin1(text: str, _: str) -> bytes:
    """The function that Python 3's pickles at protocol 2 call to rebuild bytes."""
    return text.encode("latin1")
