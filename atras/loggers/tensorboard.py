"""Event files that TensorBoard shows."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atras.errors import InputError

from .callback import Callback, EpochRow, RunInfo, member_name
from .logger import Logger, epoch_figures, final_figures

FOLDER = "tensorboard"


@dataclass(frozen=True, repr=False)
class TensorBoard(Logger):
    """Event files, a folder for each member: TensorBoard shows each as a run, with all curves in one chart.

    Steps are epochs of their phase. A process that works on a run adds one file for each member that it trains, which
    is whole after every epoch.

    Args:
        folder: for a folder of each run, with those of its members; none is `tensorboard` in the run's own folder, with
            those of its members.
    """

    folder: str | None = None

    name = "tensorboard"
    package = "tensorboard"

    @property
    def in_run_folder(self) -> bool:
        return self.folder is None

    def callback(self, folder: Path | None) -> Callback:
        if self.folder is None and folder is None:
            raise InputError(
                "log (=tensorboard): expected a folder, got a run in memory; run with out, or name "
                "tensorboard(folder=DIR)"
            )
        return _Events(
            Path(folder or "", FOLDER) if self.folder is None else Path(self.folder).expanduser(),
            self.folder is not None,
            self.imported("tensorboard.compat.proto.event_pb2"),
            self.imported("tensorboard.compat.proto.summary_pb2"),
            self.imported("tensorboard.summary.writer.record_writer"),
        )


class _Events(Callback):
    def __init__(self, folder: Path, shared: bool, events: Any, summaries: Any, records: Any) -> None:
        self.folder, self.shared = folder, shared
        self.events, self.summaries, self.records = events, summaries, records
        self.session = f"{time.time_ns():020d}"

    def run_started(self, run: RunInfo) -> None:
        if self.shared:  # runs of one name may lie in several places, and those in memory have the data set's
            self.folder /= _file_name(f"{run.name} {run.id}")

    def epochs(self, rows: Sequence[EpochRow]) -> None:
        for row in rows:
            self._write(row.member, row.epoch, epoch_figures(row))

    def members_finished(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._write(member_name(row["hidden_layers"], row["variant"], row["seed"]), 0, final_figures(row))

    def _write(self, member: str, step: int, figures: Mapping[str, float]) -> None:
        """Append an event to the member's file of this process. It is closed each time: members may be thousands."""
        folder = self.folder / _file_name(member)
        folder.mkdir(parents=True, exist_ok=True)
        path, now = folder / f"events.out.tfevents.{self.session}.atras", time.time()
        values = [self.summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        added = [self.events.Event(wall_time=now, step=step, summary=self.summaries.Summary(value=values))]
        if not path.exists():
            added.insert(0, self.events.Event(wall_time=now, file_version="brain.Event:2"))
        with path.open("ab") as file:
            for event in added:
                self.records.RecordWriter(file).write(event.SerializeToString())


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.,=+() -]", "_", name)
