"""Weights as a network names them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from atras.errors import InputError

from .weights import Weights

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""

_NUMBERED = re.compile(r"(?:(.*)\.)?(\d+)\.(weight|bias)")
"""A name in an `nn.Sequential`, which may be an attribute of a module."""


def fitted(weights: Weights, shapes: Mapping[str, Sequence[int]], network: str) -> Weights:
    """The weights with exactly a network's names, in its order.

    Names are taken as they are, without what DataParallel and torch.compile put before them, or, where all are those
    of an `nn.Sequential`, in the order of its layers.

    Args:
        weights: as they were read.
        shapes: of the network, by name.
        network: its name, for messages.

    Raises:
        InputError: if names are missing or surplus, or a shape differs.
    """
    tensors, notes = _unwrapped(weights.tensors, shapes)
    if not set(tensors) & set(shapes) and (numbered := _in_order(tensors, shapes)):
        tensors = numbered
        notes.append("names of an nn.Sequential, taken in the order of its layers")
    _check_names(weights.where, tensors, shapes, network)
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != tuple(shape):
            raise InputError(
                f"{weights.where}: {name}: expected shape {_shape(shape)} for network {network}, found "
                f"{_shape(tensors[name].shape)}; name the network that the weights are of"
            )
    own = {name: tensors[name] for name in shapes}
    return dataclasses.replace(weights, tensors=own, notes=(*weights.notes, *notes))


def _unwrapped(tensors: dict[str, Tensor], shapes: Mapping[str, object]) -> tuple[dict[str, Tensor], list[str]]:
    notes = []
    for _ in range(2):
        for wrapper in WRAPPERS:
            whole = tensors and all(name.startswith(wrapper) for name in tensors)
            if whole and not all(name.startswith(wrapper) for name in shapes):
                tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
                notes.append(f"without {wrapper!r} before the names")
    return tensors, notes


def _in_order(tensors: Mapping[str, Tensor], shapes: Mapping[str, object]) -> dict[str, Tensor]:
    """Tensors of an `nn.Sequential` under a network's names; nothing where they are not so named, or of other kinds."""
    found = {name: match for name in tensors if (match := _NUMBERED.fullmatch(name))}
    if len(found) != len(tensors) or len({match[1] for match in found.values()}) != 1 or len(tensors) != len(shapes):
        return {}
    order = sorted(found, key=lambda name: (int(found[name][2]), found[name][3] != "weight"))
    if any(found[name][3] != own.rpartition(".")[2] for name, own in zip(order, shapes, strict=True)):
        return {}
    return {own: tensors[name] for name, own in zip(order, shapes, strict=True)}


def _check_names(where: str, tensors: Mapping[str, object], shapes: Mapping[str, object], network: str) -> None:
    missing, surplus = ([name for name in a if name not in b] for a, b in ((shapes, tensors), (tensors, shapes)))
    told = [f"{text} {_listed(names)}" for text, names in (("missing are", missing), ("surplus are", surplus)) if names]
    if told:
        raise InputError(
            f"{where}: expected the {len(shapes)} tensors of network {network}; {', '.join(told)}; name the network "
            "that the weights are of"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
