"""What stands between a run and its workers: a process of its own, which is there at once, as it imports no torch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any


class Relay:
    """What workers tell, and whether they are to stop; it is on the machine of the run's process."""

    def __init__(self) -> None:
        self._told: list[tuple[int, int, list[Any], dict[str, bytes]]] = []
        self._stopped = False

    def exchange(self, index: int, attempt: int, events: list[Any], files: dict[str, bytes]) -> bool:
        """Take up what a worker tells of a task; whether it is to stop."""
        if events or files:
            self._told.append((index, attempt, events, files))
        return self._stopped

    def take(self) -> list[tuple[int, int, list[Any], dict[str, bytes]]]:
        """What was told since this was last asked."""
        told, self._told = self._told, []
        return told

    def stop(self) -> None:
        """Have all workers told to stop."""
        self._stopped = True

    def read(self, path: Path) -> bytes | None:
        """A file; None where it is not there."""
        with suppress(OSError):
            return path.read_bytes()
        return None
