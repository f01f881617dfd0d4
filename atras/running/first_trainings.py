"""First trainings that are done, which groups begin with or learn from: in the run's folder, or in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atras.planning import Group, Training
from atras.storage import remove_file
from atras.training import First, Snapshot, checkpoint, is_first

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
        if not path.exists():
            return None
        document, tensors = checkpoint.read(path)
        if any(document.get(name) != value for name, value in self._identity(training.group).items()):
            return None
        return snapshot_in(path, document, tensors)

    def keep(self, training: Training, snapshot: Snapshot) -> None:
        """Keep where a training stands, and in memory only what is done.

        Raises:
            InputError: if the file cannot be written.
        """
        if (path := first_path(self._folder, training.key)) is not None:
            checkpoint.write(path, self._identity(training.group) | snapshot.document, snapshot.tensors)
        elif is_first(snapshot):
            self.held[training.key] = snapshot

    def _identity(self, group: Group) -> dict[str, Any]:
        return {"protocol_hash": self._hash, "members": [member.name for member in group.members]}


def first_name(key: str) -> str:
    """The file of a training by its name below the run's folder."""
    return f"{checkpoint.FOLDER}/{PREFIX}{key}.safetensors"


def first_path(folder: Path | None, key: str) -> Path | None:
    """Where a training lies; None where there is no folder."""
    return None if folder is None else folder / first_name(key)


def forget_first(folder: Path) -> None:
    """Delete the files of all first trainings: no group needs one any more."""
    for path in (folder / checkpoint.FOLDER).glob(f"{PREFIX}*.safetensors"):
        remove_file(path)
    checkpoint.remove_folder_if_empty(folder / checkpoint.FOLDER)
