"""Runs of MLflow."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .callback import Callback, EpochRow, RunInfo, member_name
from .logger import Logger, epoch_figures, final_figures

RUN, MEMBER, PARENT = "atras.id", "atras.member", "mlflow.parentRunId"
"""Tags by which the runs of an interrupted run are found again; the last is MLflow's own."""

MOST_LETTERS = 500
"""Of a parameter's value that are kept: a population's candidates may be thousands."""

MOST_CHILDREN = 1000
"""Runs that MLflow lists at once."""

STATUSES = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True, repr=False)
class MLflow(Logger):
    """A run of MLflow with the experiment as its parameters, and below it a run for each member.

    A member's run has its candidate, variant and seed as parameters; steps of its metrics are epochs of their phase.

    Args:
        experiment: of MLflow; made where it is not there.
        uri: of the tracking server or store; none is the one that MLflow takes, such as `MLFLOW_TRACKING_URI`.
    """

    experiment: str = "atras"
    uri: str | None = None

    name = "mlflow"
    package = "mlflow"

    def callback(self, folder: Path | None) -> Callback:  # noqa: ARG002 (others write there)
        for noisy in ("mlflow.store", "alembic"):  # a line for each table of a new store
            logging.getLogger(noisy).setLevel(logging.WARNING)
        return _Tracked(self, self.imported("mlflow.tracking"), self.imported("mlflow.entities"))


class _Tracked(Callback):
    def __init__(self, logger: MLflow, tracking: Any, entities: Any) -> None:
        self.logger, self.tracking, self.entities = logger, tracking, entities
        self.client: Any = None
        self.experiment = self.run = ""
        self.members: dict[str, str] = {}

    def run_started(self, run: RunInfo) -> None:
        client = self.client = self.tracking.MlflowClient(tracking_uri=self.logger.uri)
        found = client.get_experiment_by_name(self.logger.experiment)
        self.experiment = found.experiment_id if found else client.create_experiment(self.logger.experiment)
        known = self._tagged(RUN, run.id)
        if known:
            self.run = known[0].info.run_id
            client.update_run(self.run, status="RUNNING")
            children = self._tagged(PARENT, self.run)
            self.members = {child.data.tags[MEMBER]: child.info.run_id for child in children}
            return
        tags = {RUN: run.id, "atras.version": run.version, "atras.protocol_hash": run.protocol_hash}
        self.run = client.create_run(self.experiment, run_name=run.name, tags=tags).info.run_id
        params = {name: _short(value) for name, value in run.protocol.items() if value not in (None, (), [], {})}
        client.log_batch(self.run, params=[self.entities.Param(*pair) for pair in params.items()])

    def epochs(self, rows: Sequence[EpochRow]) -> None:
        for row in rows:
            child = self._member(row.hidden_layers, row.variant, row.seed)
            self._measure(child, row.epoch, epoch_figures(row))

    def members_finished(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            child = self._member(row["hidden_layers"], row["variant"], row["seed"])
            self._measure(child, 0, final_figures(row))
            self.client.set_tag(child, "status", row["status"])
            self.client.set_terminated(child)

    def run_ended(self, status: str) -> None:
        self.client.set_terminated(self.run, status=STATUSES[status])

    def _tagged(self, tag: str, value: str) -> list[Any]:
        """All runs of the experiment that have a tag."""
        found: list[Any] = []
        token = None
        while True:
            wanted = f"tags.`{tag}` = '{value}'"
            page = self.client.search_runs([self.experiment], wanted, max_results=MOST_CHILDREN, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _member(self, hidden_layers: str, variant: str, seed: int) -> str:
        """The run of a member, which is made when its first row comes."""
        name = member_name(hidden_layers, variant, seed)
        if name not in self.members:
            tags = {PARENT: self.run, MEMBER: name}
            child = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
            params = {"hidden_layers": hidden_layers, "variant": variant, "seed": seed}
            self.client.log_batch(child, params=[self.entities.Param(key, str(own)) for key, own in params.items()])
            self.members[name] = child
        return self.members[name]

    def _measure(self, run: str, step: int, figures: Mapping[str, float]) -> None:
        now = time.time_ns() // 10**6
        # MLflow's names have no brackets: train_accuracy_under_pgd(steps=7).
        allowed = {"".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name): figures[name] for name in figures}
        self.client.log_batch(
            run, metrics=[self.entities.Metric(name, value, now, step) for name, value in allowed.items()]
        )


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 3]}..."
