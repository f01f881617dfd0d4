"""Where a group stands, as one file: tensors, and a JSON document beside them.

A checkpoint is named after the members it is of, so that another division into groups never mistakes it. Readers of
safetensors bound the header, so nothing that grows with a run stands there: the document, its bytes (such as pictures)
and the tensors are flat tensors of the file, one for each type, and the document has the index of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atras.errors import InputError
from atras.networks import Member
from atras.storage import DTYPES, TENSOR_ERRORS, pack_tensors, read_tensors, reason_of, remove_file, write_file

FOLDER = "checkpoint"
FORMAT = "atras-checkpoint-2"
GROUP = "group-"
"""Begins the names of groups' checkpoints."""


class Checkpoint(NamedTuple):
    """A document of JSON values (with NaN and bytes), and tensors of the types of `storage.DTYPES` on the CPU."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]


def path_of(folder: Path, members: Sequence[Member]) -> Path:
    """Where a group's checkpoint lies below the run's folder."""
    return folder / FOLDER / f"{GROUP}{key_of(members)}.safetensors"


def key_of(members: Sequence[Member]) -> str:
    """Sixteen hexadecimal digits that name a group by its members, however the run is divided."""
    names = " ".join(member.name for member in members)
    return hashlib.blake2b(names.encode(), digest_size=8).hexdigest()


def paths(folder: Path, begin: str) -> list[Path]:
    """The checkpoints in a run's folder whose names begin so, in the order of their names."""
    return sorted((folder / FOLDER).glob(f"{begin}*.safetensors"))


def forget(folder: Path, begin: str, kept: Collection[Path] = ()) -> None:
    """Delete the checkpoints in a run's folder whose names begin so, but for those that are kept."""
    for path in paths(folder, begin):
        if path not in kept:
            remove_file(path)
    remove_folder_if_empty(folder / FOLDER)


def remove_folder_if_empty(folder: Path) -> None:
    """Delete the folder of checkpoints once it holds none."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def write(path: Path, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Replace a checkpoint in one step.

    Raises:
        InputError: if it cannot be written, or could not be read back; the former one stays.
    """
    pictures = _Bytes()
    names = sorted(tensors, key=lambda name: (DTYPES[tensors[name].dtype], name))
    index = [[name, DTYPES[tensors[name].dtype], list(tensors[name].shape)] for name in names]
    text = json.dumps({"document": document, "tensors": index}, default=pictures.place)
    content: dict[str, list[Tensor]] = {"document": [_of_bytes(text.encode())], "bytes": pictures.tensors}
    for name in names:
        content.setdefault(f"values.{DTYPES[tensors[name].dtype]}", []).append(tensors[name])
    try:
        packed = pack_tensors({"format": FORMAT}, content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    write_file(path, packed)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: if the file cannot be read, is damaged, or is something else.
    """
    try:
        _, content = read_tensors(path, FORMAT)
        found = json.loads(_to_bytes(content["document"]), object_hook=_reader(_to_bytes(content["bytes"])))
        if not isinstance(found["document"], dict):
            raise ValueError("no document")
        return Checkpoint(found["document"], _tensors(found["tensors"], content))
    except (*TENSOR_ERRORS, RuntimeError) as error:
        reason = reason_of(error)
        raise InputError(
            f"{path}: expected a checkpoint of this atras, found a damaged or foreign file ({reason}); "
            "delete it to start its group anew"
        ) from None


def _tensors(index: list[Any], content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by name: each takes its numbers from where the one before of its type ended."""
    tensors: dict[str, Tensor] = {}
    ends: dict[str, int] = {}
    for name, dtype, shape in index:
        start = ends.get(dtype, 0)
        ends[dtype] = start + math.prod(shape)
        # A copy: a view would keep all others alive.
        tensors[name] = content[f"values.{dtype}"].reshape(-1)[start : ends[dtype]].reshape(shape).clone()
    return tensors


class _Bytes:
    """The bytes of a document, each content once."""

    def __init__(self) -> None:
        self._places: dict[bytes, list[int]] = {}
        self._end = 0

    def place(self, value: object) -> dict[str, list[int]]:
        """Start and end of bytes, which stand for them in JSON."""
        if not isinstance(value, bytes):
            raise TypeError(f"expected JSON values or bytes, got {type(value).__name__}")
        if value not in self._places:
            self._places[value] = [self._end, self._end + len(value)]
            self._end += len(value)
        return {"bytes": self._places[value]}

    @property
    def tensors(self) -> list[Tensor]:
        """One after the other, and a last one without any."""
        return [*map(_of_bytes, self._places), torch.empty(0, dtype=torch.uint8, device="cpu")]


def _reader(content: bytes) -> Callable[[dict[str, Any]], Any]:
    def with_bytes(value: dict[str, Any]) -> Any:
        return content[slice(*value["bytes"])] if value.keys() == {"bytes"} else value

    return with_bytes


def _of_bytes(content: bytes) -> Tensor:
    if not content:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)  # on the CPU, whatever torch's default is


def _to_bytes(content: Tensor) -> bytes:
    return bytes(content.numpy().tobytes())
