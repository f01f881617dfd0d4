"""Snapshots, as checkpoints hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from atras.errors import InputError
from atras.training import Snapshot


def snapshot_in(path: Path, document: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> Snapshot:
    """The snapshot that a checkpoint holds.

    Raises:
        InputError: if it holds none.
    """
    try:
        values = {name: document[name] for name in ("stage", "epoch", "seconds", "record")}
        return Snapshot(**values, tensors=tensors)
    except (KeyError, TypeError) as error:
        raise no_checkpoint(path, error) from None


def no_checkpoint(path: Path, error: Exception) -> InputError:
    """The error for a file that is no checkpoint."""
    return InputError(f"{path}: expected a checkpoint, found something else ({error}); delete it")
