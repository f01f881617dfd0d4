"""Watchers: told of a group while it is computed, and given its snapshots."""

from __future__ import annotations

from atras.evaluation import Rows

from .snapshot import Snapshot


class Watcher:
    """Base class of watchers: told of a group's progress and asked between its calls; keeps nothing and never stops."""

    keeps = False
    """Whether `keep` is to be called."""

    def progress(self, phase: str, steps: int, loss: float, accuracy: float) -> None:
        """Steps were made; loss and accuracy are means over the epoch so far and the group's members."""

    def listens(self) -> bool:
        """Whether `attacking` is to be told now; to tell it a GPU has to be waited for."""
        return False

    def attacking(self, phase: str, attack: str, share: float, work: float) -> None:
        """An attack is under way in a phase; see `evaluation.Attacking`."""

    def epoch(self, rows: Rows) -> None:
        """An epoch is over: its rows of `history`, and of `metrics` what was measured after it."""

    def due(self) -> bool:
        """Whether a snapshot is wanted now, in the midst of a stage. At each stage's end one is made anyway."""
        return False

    def keep(self, snapshot: Snapshot) -> None:
        """Take a snapshot; that of stage `DONE` is the last."""

    def stop(self) -> bool:
        """Whether to stop here: a snapshot is kept, and `Interrupted` raised."""
        return False
