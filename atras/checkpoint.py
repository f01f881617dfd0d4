"""Where a group stands, as one file: a safetensors file whose metadata holds a JSON document; no pickle.

A checkpoint is named after the members it is of, so that another division into groups never mistakes it. A SHA-256
over the whole file, in which its own digits count as zeros, stands in the metadata: any changed byte is detected.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from . import files
from .engine import Member
from .errors import InputError

FOLDER = "checkpoint"
FORMAT = "atras-checkpoint-1"
DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
_BLANK = "0" * 64


class Checkpoint(NamedTuple):
    """A document of JSON values (with NaN and bytes), and tensors float32, float64 or int64 on the CPU."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]


def path_of(folder: Path, members: Sequence[Member]) -> Path:
    """Where a group's checkpoint lies below the run's folder."""
    names = " ".join(member.name for member in members)
    return folder / FOLDER / f"group-{hashlib.blake2b(names.encode(), digest_size=8).hexdigest()}.safetensors"


def write(path: Path, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Replace a checkpoint in one step.

    Raises:
        InputError: if it cannot be written; the former one stays.
    """
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    parts = [_view(tensor) for tensor in values.values()]
    header = _header(document, values)
    digest = hashlib.sha256(header)
    for part in parts:
        digest.update(part)
    files.write(path, [header.replace(_mark(_BLANK), _mark(digest.hexdigest())), *parts])


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: if the file cannot be read, is damaged, or is something else.
    """
    try:
        content = path.read_bytes()
        metadata = _metadata(content)
        if metadata["format"] != FORMAT:
            raise ValueError(f"format {metadata['format']!r}")
        document = json.loads(metadata["document"], object_hook=_with_bytes)
        tensors = safetensors.torch.load(content)
        if not isinstance(document, dict):
            raise ValueError("no document")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: expected a checkpoint of this atras, found a damaged or foreign file ({reason}); "
            "delete it to start its group anew"
        ) from None
    return Checkpoint(document, tensors)


def _header(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    text = json.dumps(document, default=_without_bytes)
    entries: dict[str, Any] = {"__metadata__": {"format": FORMAT, "document": text, "sha256": _BLANK}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)  # tensors begin at a multiple of 8
    return len(content).to_bytes(8, "little") + content


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a file whose digest is right."""
    size = int.from_bytes(content[:8], "little")
    if not 0 < size <= len(content) - 8:
        raise ValueError("no header")
    header = content[: 8 + size]
    metadata = json.loads(header[8:])["__metadata__"]
    found = metadata["sha256"]
    digest = hashlib.sha256(header.replace(_mark(found), _mark(_BLANK)))
    digest.update(memoryview(content)[8 + size :])
    if digest.hexdigest() != found:
        raise ValueError("its checksum is wrong")
    return metadata


def _mark(digest: str) -> bytes:
    # Inside the document the quotation marks are escaped, so this stands in a header once.
    return f'"sha256":"{digest}"'.encode()


def _view(tensor: Tensor) -> memoryview:
    values: Any = tensor.reshape(-1).view(torch.uint8).numpy()  # numpy's stubs hide that it is a buffer
    return memoryview(values)


def _without_bytes(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"expected JSON values or bytes, got {type(value).__name__}")


def _with_bytes(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value
