"""Checkpoints of `torch.save`: a state dict, or one that lies in a dictionary with other things."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atras.errors import InputError, shown
from atras.storage import memory_limit

SAVE_ANEW = "save it anew by torch.save(model.state_dict(), ...)"
TOO_NESTED = 3
"""Dictionaries inside of one another that are looked into."""


def read_pickled(path: str, content: bytes) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint, and what was done to find them.

    Args:
        path: for messages.
        content: of the file. Nothing of it is run as code.

    Raises:
        InputError: if it is damaged, needs code to be run, or holds no state dict, or several.
    """
    _check_unpacked(path, content)
    try:
        found = without_code(content)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from None
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError, OSError, IndexError) as error:
        raise _refused(path, str(error)) from None
    return _state_dict(path, found)


def without_code(content: bytes) -> Any:
    """What torch.save wrote, as far as that needs no code of the file to be run; else torch raises its errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _check_unpacked(path: str, content: bytes) -> None:
    """Refuse an archive that would grow in memory."""
    file = io.BytesIO(content)
    if not zipfile.is_zipfile(file):
        return
    try:
        size = sum(entry.file_size for entry in zipfile.ZipFile(file).infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # torch says what is wrong
    if size > memory_limit():
        raise InputError(f"{path}: expected at most {memory_limit()} bytes unpacked, found {size}; name another file")


def _refused(path: str, reason: str) -> InputError:
    """The error for what torch does not read without running code, or at all."""
    needs = re.search(r"GLOBAL ([\w.]+)", reason)
    if "TorchScript" in reason:
        return InputError(f"{path}: expected a state dict, found a TorchScript archive; {SAVE_ANEW}")
    if needs or "weights_only" in reason or "Weights only" in reason:
        what = needs[1] if needs else ""
        named = f" ({what})" if what else ""
        return InputError(
            f"{path}: expected tensors alone, found objects that only running code could restore{named}; where the "
            f"file is yours, {SAVE_ANEW}"
        )
    first = " ".join(reason.split("\n")[0].split())
    return InputError(
        f"{path}: expected a checkpoint of torch.save, found a damaged or foreign file ({first[:120]}); copy it anew"
    )


def _state_dict(path: str, found: Any, depth: int = 0) -> tuple[dict[str, Tensor], list[str]]:
    """The one dictionary of tensors in what a file holds."""
    content = {key: value for key, value in found.items() if isinstance(key, str)} if isinstance(found, Mapping) else {}
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    inner = {key: value for key, value in content.items() if depth < TOO_NESTED and _holds_tensors(value)}
    if tensors and not inner:
        left_out = [key for key in content if key not in tensors]
        return tensors, [f"{_listed(left_out)} left out"] if left_out else []
    if len(inner) == 1 and not tensors:
        ((key, value),) = inner.items()
        state, notes = _state_dict(path, value, depth + 1)
        return state, [f"taken from {shown(key)}", *notes]
    if inner:
        several = [*inner, *tensors]
        raise InputError(f"{path}: expected one state dict, found {_listed(several)}; {SAVE_ANEW}")
    kind = f"{type(found).__name__} with {_listed(list(content))}" if content else f"a {type(found).__name__}"
    raise InputError(f"{path}: expected a state dict, found {kind}; {SAVE_ANEW}")


def _holds_tensors(value: Any) -> bool:
    """Whether a value is a dictionary of tensors by name, or has one; the state of an optimizer goes by numbers."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(key, str) for key in value):
        return False
    return any(isinstance(item, Tensor) or _holds_tensors(item) for item in value.values())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(shown, names[:3])) + more
