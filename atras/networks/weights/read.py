"""The file formats of weights, by the ending of a file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from atras.errors import InputError, shown
from atras.networks.candidates import Candidate
from atras.storage import expanded, memory_limit, near_misses, read_regular

from .pickled import read_pickled
from .programs import read_onnx, read_program
from .weights import Weights, usable

EXPORTED, OF_A_RUN = "atras-network-1", "atras-weights-1"
"""Values of `format` in the metadata of a network that `atras export` wrote, and of a run's own file of networks."""


def read_weights(path: str | Path, network: str | None = None) -> Weights:
    """Read the weights of a finished network.

    Args:
        path: a file whose ending tells its format; see `WEIGHT_FORMATS`.
        network: name of the candidate, where the file may hold several.

    Raises:
        InputError: if it cannot be read, is damaged, or is of another form.
    """
    place = expanded(path)
    ending = place.suffix.lower().removeprefix(".")
    if ending not in WEIGHT_FORMATS:
        raise InputError(f"weights (={str(path)!r}): expected a file that ends in .{', .'.join(WEIGHT_FORMATS)}")
    try:
        content = read_regular(place, memory_limit())
    except OSError as error:
        near = near_misses(place) if isinstance(error, FileNotFoundError) else ""
        raise InputError(
            f"weights (={str(path)!r}): expected a file of weights: {error.strerror or error}; name another{near}"
        ) from None
    found = WEIGHT_FORMATS[ending](str(place), content, network)
    _check_size(found)
    tensors, notes = usable(str(place), found.tensors)
    return Weights(
        ending, hashlib.sha256(content).hexdigest(), tensors, str(place), found.candidate, found.spec, found.program,
        (*found.notes, *notes),
    )  # fmt: skip


def _check_size(found: Weights) -> None:
    """Refuse tensors that are larger than what they were read from: views that would be written out."""
    size = sum(math.prod(value.shape) * value.element_size() for value in found.tensors.values() if _plain(value))
    if size > memory_limit():
        raise InputError(
            f"{found.where}: expected tensors of at most {memory_limit()} bytes, found {size}; name another file"
        )


def _plain(value: object) -> bool:
    return isinstance(value, Tensor)


def _pickled(path: str, content: bytes, network: str | None) -> Weights:  # noqa: ARG001 (it holds one)
    tensors, notes = read_pickled(path, content)
    return Weights("pth", "", tensors, path, notes=tuple(notes))


def _safetensors(path: str, content: bytes, network: str | None) -> Weights:
    try:
        tensors = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        texts: dict[str, Any] = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
        if texts.get("format") == OF_A_RUN:
            return _of_run(path, texts, tensors, network)
        if texts.get("format") == json.dumps(EXPORTED):
            candidate = Candidate.parse(json.loads(texts["hidden"]))
            return Weights("safetensors", "", tensors, path, candidate, json.loads(texts["spec"]))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: expected safetensors, found a damaged or foreign file ({reason[:120]}); copy it anew"
        ) from None
    return Weights("safetensors", "", tensors, path)


def _of_run(path: str, texts: dict[str, Any], tensors: dict[str, Tensor], network: str | None) -> Weights:
    """One network out of a run's own file, whose tensors are named `<network>/<seed>/<parameter>`."""
    members = list(dict.fromkeys(tuple(name.rsplit("/", 2)[:2]) for name in tensors))
    own = [member for member in members if network in (None, member[0])]
    if len(own) != 1:
        there = ", ".join("/".join(member) for member in (own or members)[:3])
        more = f" and {len(own or members) - 3} more" if len(own or members) > 3 else ""
        raise InputError(
            f"{path}: expected one network{f' {network}' if network else ''}, found {there}{more}; name one by "
            "--network, or write it as a file of its own by atras export"
        )
    ((name, seed),) = own
    prefix = f"{name}/{seed}/"
    chosen = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    notes = (f"the network {shown(name)} of seed {seed}",)
    return Weights("safetensors", "", chosen, path, Candidate.parse(name), json.loads(texts["spec"]), notes=notes)


Read = Callable[[str, bytes, str | None], Weights]

WEIGHT_FORMATS: dict[str, Read] = {
    "pth": _pickled,
    "pt": _pickled,
    "ckpt": _pickled,
    "safetensors": _safetensors,
    "pt2": read_program,
    "onnx": read_onnx,
}
"""By a file's ending: from its path, its content and a candidate's name to what it holds. A new one is an entry."""
