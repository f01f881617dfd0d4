"""The line from a worker to the process of its run, and the folder that a task works in where the run's is not here."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from atras.running.unit import Task
from atras.storage import LOCK
from atras.training import FOLDER, checkpoint

Event = tuple[str, tuple[Any, ...]]
"""The name of a method of a reporter, and its arguments."""

SECONDS_BETWEEN_EXCHANGES = 0.2
"""Least time between two things that a worker sends to its run."""

REPLACED = ("part", "progress", "attacking")
"""Events of which the newest alone is sent."""


class Link(ABC):
    """The line from a worker to the process of its run. Nothing is waited for: what cannot be sent is lost."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.files: dict[str, bytes] = {}
        self.folder: _OwnFolder | None = None
        self._next = time.monotonic() + SECONDS_BETWEEN_EXCHANGES
        self._stopped = False

    def tell(self, name: str, *arguments: Any) -> None:
        """Something that the run's reporter is to be told."""
        if name in REPLACED and self.events and self.events[-1][0] == name:
            self.events.pop()
        self.events.append((name, arguments))
        self._exchange()

    def stop(self) -> bool:
        """Whether the run asked to stop."""
        self._exchange()
        return self._stopped

    def _exchange(self) -> None:
        if time.monotonic() < self._next:
            return
        self.look()
        if self.send(self.events, self.files):
            self.events, self.files = [], {}
        self._stopped = self._stopped or self.asked_to_stop()
        self._next = time.monotonic() + SECONDS_BETWEEN_EXCHANGES

    def look(self, *, send: bool = True) -> None:
        """Take up what was written to a folder of the worker's own; what came from the run is not sent back."""
        if self.folder is not None:
            changed = self.folder.changed()
            self.files |= changed if send else {}

    @abstractmethod
    def send(self, events: list[Event], files: dict[str, bytes]) -> bool:
        """Send these, unless what was sent before is still on its way; whether they are sent."""

    @abstractmethod
    def asked_to_stop(self) -> bool:
        """Whether the run is known to have asked to stop."""

    @abstractmethod
    def fetch(self, path: Path) -> bytes | None:
        """A file on the machine of the run's process; None where it is not there."""


def lock_in(folder: Path | None) -> str:
    """The content of a folder's lock; empty where there is none."""
    if folder is None:
        return ""
    with suppress(OSError):
        return (folder / LOCK).read_text(encoding="utf-8", errors="replace")
    return ""


@contextmanager
def folder_of(task: Task, lock: str, link: Link) -> Iterator[Task]:
    """The task with the run's folder, where it is here; else with one of the worker's own, whose files are sent.

    Args:
        task: of the run.
        lock: content of the lock of the run's folder.
        link: to the run.
    """
    if task.folder is None or task.path is None or (lock and lock_in(task.folder) == lock):
        yield task
        return
    kept = link.fetch(task.path)
    with tempfile.TemporaryDirectory(prefix="atras-") as name:
        own = dataclasses.replace(task, folder=Path(name))
        link.folder = _OwnFolder(Path(name))
        if kept is not None and own.path is not None:
            own.path.write_bytes(kept)
        for file in task.files:
            if (content := link.fetch(task.folder / file)) is not None:
                Path(name, file).write_bytes(content)
        link.look(send=False)
        yield own
        link.look()


class _OwnFolder:
    """A worker's own folder in the place of the run's.

    Args:
        path: there, and empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        for name in (checkpoint.FOLDER, FOLDER):
            (path / name).mkdir()
        self._known: dict[str, tuple[int, int]] = {}

    def _stamps(self) -> dict[str, tuple[int, int]]:
        paths = self._path.glob("*/*.safetensors")
        stats = {str(path.relative_to(self._path)): path.stat() for path in paths if not path.name.startswith(".")}
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}

    def changed(self) -> dict[str, bytes]:
        """What was written since this was last asked, by its path."""
        before, self._known = self._known, self._stamps()
        new = [name for name, stamp in self._known.items() if before.get(name) != stamp]
        return {name: (self._path / name).read_bytes() for name in new}
