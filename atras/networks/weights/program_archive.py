"""Programs of torch.export as they are before torch reads them: refused where that would run code of the file.

torch restores some parts of such an archive by pickle, evaluates its expressions, and calls whatever its nodes name.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from atras.storage import memory_limit

from .pickled import without_code

_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|higher_order)\.\w+(\.\w+)?|_?operator\.\w+|math\.\w+|torch\._?sym_\w+(\.\w+)?"
)
"""The operations that a node may name: torch's own on tensors, and arithmetic."""

_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_SIZE = re.compile(
    r"([\s\d()+*/%,.-]|\b(Add|Mul|Pow|Integer|Rational|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv)\b|int_oo)*"
)
"""The expression of a size but for its symbols."""

_PARTS = ("weight_", "tensor_")
"""Begin the names of parts that are numbers; others are objects."""

_NAMES = ("data/weights/weight_", "data/constants/tensor_", ".data/", "extra/")
"""Begin the names of the archive's entries that are neither JSON nor written by torch.save."""


def check_archive(content: bytes) -> None:
    """Refuse what torch could not read without running code of the file.

    Raises:
        ValueError: if it is one, or no archive of a program.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > memory_limit():
        raise ValueError("unpacked it is larger than memory allows")
    names = [entry.filename.partition("/")[2] for entry in entries]
    if "archive_format" not in names:
        raise ValueError("not the format of torch.export.save since torch 2.8")
    for entry, name in zip(entries, names, strict=True):
        if name.endswith(".json"):
            _check_json(archive.read(entry))
        elif name.endswith(".pt"):
            _check_pickle(archive.read(entry))
        elif "/" in name and not name.startswith(_NAMES):
            raise ValueError(f"part {name!r} is no part of a plain network")


def _check_pickle(content: bytes) -> None:
    try:
        without_code(content)
    except Exception as error:
        raise ValueError("it holds objects that only running code could restore") from error


def _check_json(content: bytes) -> None:
    for key, value in _values(json.loads(content)):
        if key == "use_pickle" and value:
            raise ValueError("it holds pickled weights")
        if key == "path_name" and not str(value).startswith(_PARTS):
            raise ValueError(f"part {value!r} is no tensor")
        if key == "target" and isinstance(value, str) and "." in value and not _TARGET.fullmatch(value):
            raise ValueError(f"operation {value!r} is none of torch's on tensors")
        if key == "expr_str" and not _SIZE.fullmatch(_SYMBOL.sub("", str(value))):
            raise ValueError(f"size {value!r} is no plain expression")


def _values(found: Any) -> Iterator[tuple[str, Any]]:
    """Every key of the objects in JSON values, with its value."""
    left = [found]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
            left += value.values()
        elif isinstance(value, list):
            left += value
