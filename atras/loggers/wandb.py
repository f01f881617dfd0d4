"""Runs of Weights & Biases."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atras.checks import one_of

from .callback import Callback, EpochRow, RunInfo, member_name
from .logger import Logger, epoch_figures, final_figures

AXIS = "epoch"
"""The metric over which all others are drawn."""


@dataclass(frozen=True, repr=False)
class WandB(Logger):
    """A run of Weights & Biases, with the figures of each member under its name.

    Args:
        project: of Weights & Biases.
        mode: `offline` writes files into the run's folder, for `wandb sync`, a run of the run's group each time that it
            goes on; `online` sends them as it goes, to one run.
        entity: user or team that the project is of; none is the default of the account.
    """

    project: str = "atras"
    mode: str = "offline"
    entity: str | None = None

    name = "wandb"
    package = "wandb"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("wandb: mode", self.mode, ("offline", "online"))

    @property
    def in_run_folder(self) -> bool:
        return self.mode == "offline"

    def callback(self, folder: Path | None) -> Callback:  # noqa: ARG002 (others write there)
        return _Sent(self, self.imported("wandb"))


class _Sent(Callback):
    def __init__(self, logger: WandB, wandb: Any) -> None:
        self.logger, self.wandb = logger, wandb
        self.run: Any = None

    def run_started(self, run: RunInfo) -> None:
        settings = self.wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
        )
        # Offline files go on with no run: synchronized, a later one of the same id would take the place of the earlier.
        own = f"{run.id}-{os.urandom(4).hex()}" if run.resumed and self.logger.mode == "offline" else run.id
        folder = run.folder or Path.cwd()
        while any(folder.glob(f"wandb/*run-{datetime.datetime.now():%Y%m%d_%H%M%S}-{own}")):
            time.sleep(0.1)  # it names folders by the second, and would write over one of this second
        self.run = self.wandb.init(
            project=self.logger.project, entity=self.logger.entity, mode=self.logger.mode, id=own, name=run.name,
            group=run.id, dir=str(folder), config=dict(run.protocol), resume="allow", settings=settings,
        )  # fmt: skip
        # For all at once: in a metric's own name it would take the dot of a learning rate for one of a path.
        self.run.define_metric("*", step_metric=AXIS)

    def epochs(self, rows: Sequence[EpochRow]) -> None:
        for row in rows:
            figures = {f"{row.member}/{name}": value for name, value in epoch_figures(row).items()}
            self.run.log({AXIS: row.epoch, **figures})

    def members_finished(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            member = member_name(row["hidden_layers"], row["variant"], row["seed"])
            self.run.summary.update({f"{member}/{name}": value for name, value in final_figures(row).items()})

    def run_ended(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == "finished" else 1)
