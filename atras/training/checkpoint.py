"""Where a group stands, as one file: tensors, and a JSON document beside them.

A checkpoint is named after the members it is of, so that another division into groups never mistakes it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from atras.errors import InputError
from atras.networks import Member
from atras.storage import TENSOR_ERRORS, pack_tensors, read_tensors, reason_of, write_file

FOLDER = "checkpoint"
FORMAT = "atras-checkpoint-1"


class Checkpoint(NamedTuple):
    """A document of JSON values (with NaN and bytes), and tensors float32, float64 or int64 on the CPU."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]


def path_of(folder: Path, members: Sequence[Member]) -> Path:
    """Where a group's checkpoint lies below the run's folder."""
    return folder / FOLDER / f"group-{key_of(members)}.safetensors"


def key_of(members: Sequence[Member]) -> str:
    """Sixteen hexadecimal digits that name a group by its members, however the run is divided."""
    names = " ".join(member.name for member in members)
    return hashlib.blake2b(names.encode(), digest_size=8).hexdigest()


def remove_folder_if_empty(folder: Path) -> None:
    """Delete the folder of checkpoints once it holds none."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def write(path: Path, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Replace a checkpoint in one step.

    Raises:
        InputError: if it cannot be written; the former one stays.
    """
    text = json.dumps(document, default=_without_bytes)
    write_file(path, pack_tensors({"format": FORMAT, "document": text}, tensors))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: if the file cannot be read, is damaged, or is something else.
    """
    try:
        metadata, tensors = read_tensors(path, FORMAT)
        document = json.loads(metadata["document"], object_hook=_with_bytes)
        if not isinstance(document, dict):
            raise ValueError("no document")
    except TENSOR_ERRORS as error:
        reason = reason_of(error)
        raise InputError(
            f"{path}: expected a checkpoint of this atras, found a damaged or foreign file ({reason}); "
            "delete it to start its group anew"
        ) from None
    return Checkpoint(document, tensors)


def _without_bytes(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"expected JSON values or bytes, got {type(value).__name__}")


def _with_bytes(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value
