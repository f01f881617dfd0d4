"""One process at work on a run: it has the tasks of the plan computed and records what comes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from atras.engines import ENGINES
from atras.errors import InputError, Interrupted
from atras.evaluation import Row, Rows, cautions, transfer_cautions
from atras.planning import Training
from atras.results import Results
from atras.training import Networks, files_of

from .all_pairs import Within, transfer_rows
from .divided import ShortageError, hand_on_checkpoints, remove_other_checkpoints
from .executors import Executor, Outcome, sharing_memory
from .first_trainings import forget_first
from .plan_tasks import PlanTasks
from .progress import Reporter
from .said_before import cautions_before
from .shards import DONE, tells
from .stopwatch import Stopwatch
from .telling import Telling
from .time_left import Work
from .training_task import TrainingTask
from .transfer_task import forget_transfer
from .unit import Surroundings
from .variants import group_protocol, of_variant

Stop = Callable[[], bool]


class Session:
    """One process at work on a run.

    Args:
        tasks: of the run's plan.
        reporter: told of the plan and of the progress.
        stop: asked whether to stop; None for never.
        watch: whose seconds are the run's.
        executor: computes.
        telling: tells the callbacks.
    """

    def __init__(
        self,
        tasks: PlanTasks,
        reporter: Reporter,
        stop: Stop | None,
        watch: Stopwatch,
        executor: Executor,
        telling: Telling,
    ) -> None:
        self.tasks, self.device, self.data, self.protocol = tasks, tasks.device, tasks.data, tasks.protocol
        self.writer, self.reporter, self.watch = tasks.writer, reporter, watch
        self.timed_before: Mapping[str, object] = self.writer.run.get("timings") or {}
        in_memory = self.protocol.tries_other_networks
        networks = Networks(self.writer.directory, tasks.spec, tasks.hash, in_memory=in_memory)
        self.telling, epochs = telling, telling.epochs if telling else None
        noted = self.note_loss, self.note_split, epochs
        self.place = Surroundings(self.data, networks, tasks.first, reporter, stop or _never, *noted)
        self.executor = executor

    def go(self, startup_seconds: float | None) -> Results:
        """All groups that are left, and the end of the run."""
        try:
            results = self.compute(startup_seconds)
            # Whatever happens to a logger now, the run is finished.
            self.telling.end("finished")
            return results
        finally:
            self.reporter.close()
            self.telling.close()
            self.writer.close()

    def compute(self, startup_seconds: float | None) -> Results:
        """All groups that are left; run.json says how it ended."""
        try:
            self.watch.begin("plan")
            for line in cautions_before(self.protocol, self.data):
                self.reporter.note(line)
            plan, shard = self.tasks.plan, self.tasks.shard
            self.reporter.plan([*plan.lines(self.reporter.width), *([tells(plan, shard)] if shard else [])])
            left = self.tasks.left()
            works, after = plan.work([*self.tasks.needed(left), *left])
            expected = {index: Work(*own, self.phases_at(index)) for index, own in works.items()}
            self.reporter.expect(expected, 0.0 if shard else after)
            self.watch.begin("writing")
            self.tell_start()
            self.watch.begin("groups")
            self.compute_all()
            self.note_trainings_left()
            if self.writer.directory is not None:
                forget_first(self.writer.directory)
            if self.protocol.tries_other_networks and shard is None:
                self.watch.begin("transfer")
                self.transfer()
            self.watch.begin("writing")
            self.writer.settle()
            timings = {"startup_seconds": startup_seconds, **self.timings()}
            return self.writer.finish({"timings": timings}, "finished" if shard is None else DONE)
        except (Interrupted, KeyboardInterrupt):
            self.leave("interrupted")
            raise
        except InputError as error:
            self.leave("failed")
            if self.writer.directory is None:
                raise
            raise InputError(f"{error}; the run goes on with --resume {self.writer.directory}") from error
        except BaseException:
            self.leave("failed")
            raise

    def phases_at(self, number: int) -> int:
        """How many phases the networks of a group, or of a first training, are attacked in."""
        return 1 + self.protocol.setting("defence", self.tasks.plan.at(number).variant).trains

    def tell_start(self) -> None:
        """Tell the callbacks of the run, and what they do not know yet of members that are finished."""
        if self.telling:
            self.telling.start(self.writer.run, self.protocol, self.writer.directory)
            if self.tasks.finished:
                names = ("history", "metrics", "table")
                self.telling.finished(Rows(**{name: self.writer.rows(name) for name in names}))

    def compute_all(self) -> None:
        """Have every group computed that is not finished; those that were divided come in a further round."""
        while left := self.tasks.left():
            for outcome in self.executor.map(self.tasks.of(left), self.place):
                with self.watch.within("writing"):
                    if isinstance(outcome.task, TrainingTask):
                        self.note_training(outcome.task, outcome)
                    elif outcome.rows is None:
                        self.divide(outcome)
                    else:
                        self.take(outcome)

    def note_training(self, task: TrainingTask, outcome: Outcome[Any]) -> None:
        """Record that a first training is done, which nothing that is computed from it tells.

        Raises:
            InputError: if it is not, for want of memory.
        """
        if outcome.rows is None:
            raise InputError(f"memory: expected room for {task.label}, found none ({outcome.reason}); free some")
        self.record_training(task.training, sum(float(str(row["seconds"])) for row in outcome.rows.timings))

    def note_trainings_left(self) -> None:
        """Record those that a group did for itself, or that were done when a process ended which could not say so."""
        known = [{**record, "seconds": None} for record in self.writer.run.get("trainings", ())]
        for training in self.tasks.plan.trainings:
            if {**training.record, "seconds": None} not in known and (done := self.place.first.get(training)):
                self.record_training(training, done.seconds)

    def record_training(self, training: Training, seconds: float) -> None:
        """Put a first training into run.json."""
        record = {**training.record, "seconds": seconds}
        self.writer.update({"trainings": [*self.writer.run.get("trainings", ()), record]})

    def transfer(self) -> None:
        """Try every member's adversarial images on every other one. What was trained is not lost for want of memory."""
        self.place.signs.clear()  # no group comes any more that learns from them
        try:
            rows = transfer_rows(self.withins(), self.executor, self.place, self.note_split)
        except ShortageError as error:
            if self.writer.directory is not None:
                raise
            self.note_cautions([f"transfer is left out: {error}"])
        else:
            self.writer.append(rows)
            self.note_cautions(transfer_cautions(rows.transfer, self.writer.rows("metrics")))
        if self.writer.directory is not None:
            forget_transfer(self.writer.directory)

    def withins(self) -> list[Within]:
        """The transfer between members of each variant, as their solo run has it."""
        table, folder, groups = self.writer.rows("table"), self.writer.directory, self.tasks.plan.groups
        files = {} if folder is None else files_of(folder, (group.members for group in groups))
        at_once = sharing_memory(self.executor, self.device)
        found = []
        for variant in self.protocol.variants:
            own = of_variant(groups, variant)
            some = next(i for i, group in enumerate(groups) if {*group.members} >= {*own[0].members})
            protocol = group_protocol(self.protocol, variant, len(self.data.test))
            task = dataclasses.replace(
                self.tasks.group(some), protocol=protocol.replace(precision=groups[some].precision)
            )
            found.append(Within(task, self.place, variant, own, table, files, at_once))
        return found

    def note_cautions(self, told: Sequence[str]) -> None:
        """Say and record what has to be known beside the figures."""
        for line in told:
            self.reporter.note(line)
        # A process that ended behind the transfer and before the run has said them already.
        self.writer.update({"warnings": list(dict.fromkeys([*self.writer.run.get("warnings", ()), *told]))})

    def note_split(self, split: Row, **besides: Any) -> None:
        """Record that memory did not suffice for something, and that it goes on in smaller parts."""
        self.writer.update({"splits": [*self.writer.run.get("splits", ()), split], **besides})

    def note_loss(self, loss: Row) -> None:
        """Record that a worker was lost with a group, which goes on elsewhere."""
        self.writer.update({"losses": [*self.writer.run.get("losses", ()), loss]})

    def take(self, outcome: Outcome) -> None:
        """Write a finished group's rows."""
        rows = outcome.rows
        if rows is None:
            return
        told = cautions(rows)
        for line in told:
            self.reporter.note(line)
        self.writer.append_group(outcome.task.index, rows, told, self.timings())
        self.telling.finished(rows)
        outcome.task.forget()

    def divide(self, outcome: Outcome) -> None:
        """Put two halves in the place of a group that memory does not suffice for: one there, one at the end."""
        task, group, reason = outcome.task, outcome.task.group, outcome.reason
        if len(group.members) == 1 or ENGINES.get(group.engine).one_by_one:
            raise InputError(
                f"memory: expected room for {group.label} one member at a time, found none ({reason}); free some "
                "(--memory only caps what is planned), or start anew with a lower --batch-size or --train-size"
            )
        both = self.tasks.divide(task)
        self.reporter.note(f"{group.label}: out of memory ({reason}); goes on as two groups")
        folder = self.writer.directory
        if folder is not None:
            hand_on_checkpoints(folder, both)
        split: Row = {"group": task.index, "phase": None, "members": len(group.members), "reason": reason}
        self.note_split(split, plan=self.tasks.plan.to_dict())
        if folder is not None:
            remove_other_checkpoints(folder, self.tasks.unfinished())

    def leave(self, status: str) -> None:
        """End what is under way, and say in run.json how the run ended, if it can be written."""
        # Workers write to the folder: it is let go of when they are gone.
        self.executor.close()
        with suppress(InputError, OSError):
            self.writer.update({"status": status, "timings": self.timings()})
            self.writer.settle()
        self.telling.end(status)

    def timings(self) -> dict[str, object]:
        """Seconds of the run so far, over all sessions."""
        return self.watch.timings(self.timed_before)


def _never() -> bool:
    return False
