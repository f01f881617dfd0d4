"""Event files that TensorBoard shows."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atras.errors import InputError

from .callback import Callback, EpochRow, member_name
from .logger import Logger, epoch_figures, final_figures

FOLDER = "tensorboard"


@dataclass(frozen=True, repr=False)
class TensorBoard(Logger):
    """Event files, a folder for each member: TensorBoard shows each as a run, with all curves in one chart.

    Steps are epochs of their phase. A process that works on a run adds one file for each member that it trains, which
    is whole after every epoch.

    Args:
        folder: for the folders of members; none is `tensorboard` in the run's folder.
    """

    folder: str | None = None

    name = "tensorboard"
    package = "tensorboard"

    def callback(self, folder: Path | None) -> Callback:
        if self.folder is None and folder is None:
            raise InputError(
                "log (=tensorboard): expected a folder, got a run in memory; run with out, or name "
                "tensorboard(folder=DIR)"
            )
        return _Events(
            Path(folder or "", FOLDER) if self.folder is None else Path(self.folder).expanduser(),
            self.imported("tensorboard.compat.proto.event_pb2"),
            self.imported("tensorboard.compat.proto.summary_pb2"),
            self.imported("tensorboard.summary.writer.record_writer"),
        )


class _Events(Callback):
    def __init__(self, folder: Path, events: Any, summaries: Any, records: Any) -> None:
        self.folder, self.events, self.summaries, self.records = folder, events, summaries, records
        self.session = f"{time.time_ns():020d}"

    def epochs(self, rows: Sequence[EpochRow]) -> None:
        for row in rows:
            self._write(row.member, row.epoch, epoch_figures(row))

    def members_finished(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._write(member_name(row["hidden_layers"], row["variant"], row["seed"]), 0, final_figures(row))

    def _write(self, member: str, step: int, figures: Mapping[str, float]) -> None:
        """Append an event to the member's file of this process. It is closed each time: members may be thousands."""
        folder = self.folder / re.sub(r"[^\w.,=+() -]", "_", member)
        folder.mkdir(parents=True, exist_ok=True)
        path, now = folder / f"events.out.tfevents.{self.session}.atras", time.time()
        values = [self.summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        added = [self.events.Event(wall_time=now, step=step, summary=self.summaries.Summary(value=values))]
        if not path.exists():
            added.insert(0, self.events.Event(wall_time=now, file_version="brain.Event:2"))
        with path.open("ab") as file:
            for event in added:
                self.records.RecordWriter(file).write(event.SerializeToString())
