"""Tensors and texts as one safetensors file that carries its own checksum; no pickle.

Written here and not by safetensors, which puts texts in another order every time: equal content gives equal bytes.
"""

from __future__ import annotations

import functools
import json
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from atras.errors import InputError

from .bounded_read import memory_limit, open_regular, read_regular
from .checksum import BLANK, check_checksum, with_checksum

DTYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8",
    torch.int8: "I8", torch.bool: "BOOL",
}  # fmt: skip
"""The types that a file may hold."""

MAX_HEADER_BYTES = 100_000_000
"""Largest header that the library safetensors reads."""

MARK = b'"sha256":"'
"""Stands once in a header: inside of other texts the quotation marks are escaped."""

TENSOR_ERRORS = (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError)
"""The errors that reading a damaged or foreign file raises."""


def reason_of(error: BaseException) -> str:
    """The message of one of TENSOR_ERRORS, on one line and without the file's name."""
    text = error.strerror if isinstance(error, OSError) else None
    return " ".join((text or str(error)).split())


class Content(NamedTuple):
    """The content of a safetensors file: texts by name, and tensors on the CPU by name."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]


def pack_tensors(
    metadata: Mapping[str, str], tensors: Mapping[str, Tensor | Sequence[Tensor]]
) -> list[bytes | memoryview]:
    """The content of a safetensors file with its checksum, in parts for `write_file`.

    Args:
        metadata: texts; the name sha256 is taken.
        tensors: of the types of DTYPES, on any device; several of one type under one name become one flat tensor.

    Returns:
        The header, and the bytes of each tensor in the order of the names.

    Raises:
        InputError: if the file could not be read back.
    """
    # In one order: that of tensors which safetensors has read differs from time to time.
    values = {name: _pieces(tensors[name]) for name in sorted(tensors)}
    header = _header(metadata, values)
    limits = {"header": (len(header), MAX_HEADER_BYTES)}
    limits["file"] = (len(header) + sum(piece.nbytes for pieces in values.values() for piece in pieces), memory_limit())
    for part, (size, limit) in limits.items():
        if size > limit:
            raise InputError(
                f"expected a {part} of at most {limit} bytes, which can be read back, got {size}; make smaller groups "
                "(a lower --memory), or split the run"
            )
    return with_checksum(MARK, header, *(_view(piece) for pieces in values.values() for piece in pieces))


def read_tensors(path: Path, file_format: str) -> Content:
    """The whole content of a safetensors file.

    Args:
        path: the file.
        file_format: what its metadata must name as `format`.

    Raises:
        One of TENSOR_ERRORS: if it cannot be read, is damaged, or is something else.
    """
    content = read_regular(path, memory_limit())
    check_checksum(MARK, content)
    metadata = _metadata(content, file_format)
    with torch.device("cpu"):  # tensors without values would come on torch's default device
        return Content(metadata, safetensors.torch.load(content))


def read_some_tensors(path: Path, file_format: str, prefix: str) -> Content:
    """The tensors of a file whose names begin with a prefix, under the rest of their names.

    Args:
        path: the file. It is checked once in a process, as long as nobody replaces it.
        file_format: as in `read_tensors`.
        prefix: of names.

    Raises:
        One of TENSOR_ERRORS: as `read_tensors`.
    """
    status = path.stat()
    metadata = _checked(path, file_format, status.st_ino, status.st_size, status.st_mtime_ns)
    with torch.device("cpu"), safetensors.safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a mapping)
        return Content(metadata, {name.removeprefix(prefix): file.get_tensor(name) for name in names})


def tensor_names(path: Path, file_format: str) -> list[str]:
    """The names of a file's tensors.

    Raises:
        One of TENSOR_ERRORS: as `read_tensors`.
    """
    status = path.stat()
    _checked(path, file_format, status.st_ino, status.st_size, status.st_mtime_ns)
    with safetensors.safe_open(path, framework="pt") as file:
        return list(file.keys())


@functools.lru_cache(maxsize=1024)
def _checked(path: Path, file_format: str, *_identity: int) -> dict[str, str]:
    with (
        open_regular(path, memory_limit()) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        check_checksum(MARK, content)
        return _metadata(content, file_format)


def _pieces(tensors: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The tensors under one name, on the CPU; those of a list as flat ones."""
    if isinstance(tensors, Tensor):
        return [tensors.detach().cpu().contiguous()]
    return [tensor.detach().cpu().contiguous().reshape(-1) for tensor in tensors]


def _header(metadata: Mapping[str, str], tensors: Mapping[str, list[Tensor]]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {**metadata, "sha256": BLANK}}
    end = 0
    for name, pieces in tensors.items():
        start, end = end, end + sum(piece.nbytes for piece in pieces)
        shape = pieces[0].shape if len(pieces) == 1 else [sum(piece.numel() for piece in pieces)]
        entries[name] = {"dtype": DTYPES[pieces[0].dtype], "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)  # tensors begin at a multiple of 8
    return len(content).to_bytes(8, "little") + content


def _metadata(content: bytes | mmap.mmap, file_format: str) -> dict[str, str]:
    size = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + size])["__metadata__"]
    if metadata["format"] != file_format:
        raise ValueError(f"format {metadata['format']!r}")
    return metadata


def _view(tensor: Tensor) -> memoryview:
    values: Any = tensor.reshape(-1).view(torch.uint8).numpy()  # numpy's stubs hide that it is a buffer
    return memoryview(values)
