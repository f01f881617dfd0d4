"""First trainings that groups begin with or learn from, and signs made of them: in the run's folder, or in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from atras.attacks import Attack
from atras.planning import Group, Training
from atras.training import Checkpoint, First, Snapshot, checkpoint, is_first

from .snapshots import snapshot_in

PREFIX = "first-"
"""Begins the names of their files, which are checkpoints until they are done."""


class FirstTrainings:
    """The first trainings of a run.

    Args:
        folder: the run's; None for a run in memory.
        run_hash: of its protocol.
        held: those that are done, by their keys, of a run in memory.
    """

    def __init__(self, folder: Path | None, run_hash: str, held: Mapping[str, Snapshot] | None = None) -> None:
        self._folder, self._hash = folder, run_hash
        self.held = dict(held or {})

    def get(self, training: Training) -> First | None:
        """A training; None where it is not done."""
        snapshot = self.so_far(training)
        return None if snapshot is None or not is_first(snapshot) else First(training.group.members, snapshot)

    def so_far(self, training: Training) -> Snapshot | None:
        """Where a training stands; None where it has not begun, or its file is of something else.

        Raises:
            InputError: if the file is damaged.
        """
        if (path := first_path(self._folder, training.key)) is None:
            return self.held.get(training.key)
        found = self._read(path, training.group)
        return None if found is None else snapshot_in(path, *found)

    def keep(self, training: Training, snapshot: Snapshot) -> None:
        """Keep where a training stands, and in memory only what is done.

        Raises:
            InputError: if the file cannot be written.
        """
        if (path := first_path(self._folder, training.key)) is not None:
            checkpoint.write(path, self._identity(training.group) | snapshot.document, snapshot.tensors)
        elif is_first(snapshot):
            self.held[training.key] = snapshot

    def signs_so_far(self, training: Training, attack: Attack) -> dict[str, Tensor]:
        """How far the attack on a training's images is, as tensors of an evaluation; none where it has not begun.

        Raises:
            InputError: if the file is damaged.
        """
        path = signs_path(self._folder, training.key, attack)
        found = None if path is None else self._read(path, training.group)
        return {} if found is None else found.tensors

    def keep_signs(self, training: Training, attack: Attack, tensors: Mapping[str, Tensor]) -> None:
        """Keep how far the attack on a training's images is; of a run in memory nothing.

        Raises:
            InputError: if the file cannot be written.
        """
        if (path := signs_path(self._folder, training.key, attack)) is not None:
            checkpoint.write(path, self._identity(training.group), tensors)

    def _read(self, path: Path, group: Group) -> Checkpoint | None:
        """A file; None where there is none, or it is of something else."""
        if not path.exists():
            return None
        found = checkpoint.read(path)
        same = all(found.document.get(name) == value for name, value in self._identity(group).items())
        return found if same else None

    def _identity(self, group: Group) -> dict[str, Any]:
        return {"protocol_hash": self._hash, "members": [member.name for member in group.members]}


def first_name(key: str) -> str:
    """The file of a training by its name below the run's folder."""
    return f"{checkpoint.FOLDER}/{PREFIX}{key}.safetensors"


def first_path(folder: Path | None, key: str) -> Path | None:
    """Where a training lies; None where there is no folder."""
    return None if folder is None else folder / first_name(key)


def signs_path(folder: Path | None, key: str, attack: Attack) -> Path | None:
    """Where the signs lie of the attack on a training's images, which depend on its label; None without a folder."""
    if folder is None:
        return None
    digits = hashlib.blake2b(f"{attack.label_source} {attack.target}".encode(), digest_size=4).hexdigest()
    return folder / checkpoint.FOLDER / f"{PREFIX}{key}-{digits}.safetensors"


def forget_first(folder: Path) -> None:
    """Delete the files of all first trainings, and of signs made of them: no group needs one any more."""
    checkpoint.forget(folder, PREFIX)
