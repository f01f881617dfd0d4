"""The orchestrator: loads the data, plans, has the groups computed, and hands the rows to the results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from atras.engines import ENGINES
from atras.environment import describe
from atras.errors import InputError, Interrupted
from atras.evaluation import Row, Rows, cautions, keeps_outcomes, outcome_rows, transfer_cautions
from atras.experiment import Execution, OwnNetworks, Protocol, with_networks
from atras.loggers import Callback
from atras.networks import Candidate, Spec, Variant, Weights
from atras.planning import Group, Training, halves, needed_by, spec_of
from atras.results import Results, Writer, check_rows, read, read_run
from atras.storage import Lock, expanded, is_file
from atras.training import Networks, files_of
from atras.version import __version__

from .all_pairs import Within, transfer_rows
from .data_place import DataPlace
from .divided import ShortageError, hand_on_checkpoints, remove_other_checkpoints
from .executors import Executor, Outcome, executor_of, sharing_memory
from .first_trainings import FirstTrainings, first_name, forget_first
from .fresh_seeds import check_fresh
from .given import fitted_weights, weights_again
from .prepare import Prepared, cautions_before, group_protocol, memory_cap, of_variant, prepare
from .progress import Reporter
from .reopen import check_same, recorded, reopen, session_record
from .shards import DONE, Shard, for_machines, take_shard, tells
from .stopwatch import Stopwatch
from .task import GroupTask
from .telling import Telling, callbacks_of
from .time_left import Work
from .training_task import TrainingTask
from .transfer_task import forget_transfer
from .unit import Surroundings, Task

Stop = Callable[[], bool]


def run(
    protocol: Protocol | None = None,
    execution: Execution | None = None,
    *,
    networks: OwnNetworks | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    config_plan: Mapping[str, Any] | None = None,
    startup_seconds: float | None = None,
    stop: Stop | None = None,
    place: DataPlace | None = None,
    weights: Sequence[Weights] = (),
    confirm_seeds: Sequence[int] = (),
    callbacks: Sequence[Callback] = (),
    executor: Executor | None = None,
) -> Results:
    """Train, attack, defend and re-attack every member of a protocol.

    Args:
        protocol: what to compute; the default is the paper's population on the bundled digits.
        execution: where and how.
        networks: modules of yours as further candidates: by name, a function or class without arguments that makes
            one, or where it is, as `mine.py:make`. They are alone where the protocol leaves the candidates as they are.
        out: folder for the results, new or empty; None keeps them in memory.
        reporter: told of the plan and of the progress; None for silence.
        config_plan: the plan that an earlier run recorded, to be repeated.
        startup_seconds: time that the caller spent before this call, for `run.json`.
        stop: asked about once a second whether to stop.
        place: where the data are, if not where the protocol and the execution say.
        weights: of the protocol's candidates where they are finished, in their order; then nothing is trained.
        confirm_seeds: fresh ones for `atras.confirm`, which measures the winner on them when the run is done; here they
            are checked and recorded.
        callbacks: told of every epoch of every member, besides the loggers of the execution.
        executor: one that several runs are computed with, made of the same execution, which stays open unless this one
            fails; None for one of its own.

    Returns:
        The frames of the run. `out` holds them too, and is up to date after each group.

    Raises:
        InputError: if the data, the device, the memory cap, weights, a logger or `out` cannot be used; as
            `check_fresh`.
        Interrupted: if `stop` said so; `resume` goes on with what is in `out`.
    """
    watch = Stopwatch(time.perf_counter())
    protocol, execution = with_networks(protocol or Protocol(), networks), execution or Execution()
    reporter = reporter or Reporter()
    place = place or DataPlace.of(protocol, execution)
    if confirm_seeds:
        check_fresh(protocol, confirm_seeds, out, execution.shard)
    told = callbacks_of(execution, callbacks, None if out is None else expanded(out))
    with executor_of(execution, executor) as executor:
        load = watch.loading(partial(place.load, progress=reporter.decoding))
        prepared = prepare(protocol, execution, config_plan, load)
        shard = None
        if execution.shard is not None:
            prepared, shard = take_shard(prepared, protocol, execution)
        elif config_plan is None:
            prepared = for_machines(prepared, protocol, execution, executor.slots(prepared.device))
        if shard is not None and out is None:
            raise InputError(
                f"shard (={execution.shard}): expected a folder for its part of the run, got none; give out"
            )
        device, data, spec, plan = prepared
        given = fitted_weights(protocol, spec, weights)
        if keeps_outcomes(protocol, len(data.test)):
            check_rows(outcome_rows(protocol, len(data.test)), "outcomes")
        watch.begin("writing")
        writer = Writer(out, {
            "protocol": protocol.to_dict(), "protocol_hash": protocol.hash, "version": __version__,
            "execution": execution.to_dict(), "environment": describe(device), "data": data.provenance(),
            "data_places": [] if out is None else place.remembered(Path(out)),
            "weights": [each.record(candidate.name, out) for candidate, each in given.items()],
            "model": spec.to_dict(), "plan": plan.to_dict(), "splits": [], "finished_groups": [],
            **({} if shard is None else {"shard": shard.to_dict()}),
            **({"confirm_seeds": list(confirm_seeds)} if confirm_seeds else {}),
            "warnings": cautions_before(protocol, data),
            "sessions": [session_record(prepared, execution, "start")],
        })  # fmt: skip
        telling = Telling(told, writer.directory, reporter)
        own = _Run(prepared, place, protocol, execution, writer, reporter, stop, watch, given, executor, telling)
        return own.go(startup_seconds)


def resume(
    directory: str | Path,
    protocol: Protocol | None = None,
    execution: Execution | None = None,
    *,
    networks: OwnNetworks | None = None,
    reporter: Reporter | None = None,
    startup_seconds: float | None = None,
    stop: Stop | None = None,
    place: DataPlace | None = None,
    take_over: bool = False,
    callbacks: Sequence[Callback] = (),
    executor: Executor | None = None,
) -> Results:
    """Go on with a run that was killed, interrupted or failed. Finished groups are not computed again.

    On the same machine the result is bitwise that of a run that was never interrupted.

    Args:
        directory: the run's folder.
        protocol: None for the recorded one; another is refused, but for its precision (what is unfinished then trains
            in that) and for a path of the data where the same ones are.
        execution: None for the recorded one. With another device, engine or memory cap, or where this machine cannot
            do what the run was planned for, what is unfinished is planned anew; the plan says why.
        networks: modules of yours that the run has, which need be given again where they were given in Python: by name,
            with the same source.
        reporter, startup_seconds, stop, place, executor: as `run`. The data are found where they were when the run
            began, seen from here or from its folder, and wherever they are named now: their checksums decide.
        take_over: whether to go on although a process of another machine may be at work on it.
        callbacks: as `run`, told of what they were not told before.

    Returns:
        The frames of the whole run; those of a run that is finished already as they are.

    Raises:
        InputError: if the folder holds no run, is another's at the moment, or holds a damaged file; if the protocol or
            the data differ; and as `run`.
        Interrupted: as `run`.
    """
    watch, folder, reporter = Stopwatch(time.perf_counter()), expanded(directory), reporter or Reporter()
    weights, networks = weights_again(folder, networks) if is_file(folder / "run.json") else ([], networks)
    loaded = recorded(folder, networks)
    kept = Protocol(**loaded.protocol_fields)
    check_same(kept, protocol)
    wish = None if protocol is None or protocol.precision == kept.precision else protocol.precision
    before = Execution(**loaded.execution_fields)
    execution = execution or before
    place = place or DataPlace.of(protocol or kept, execution)
    protocol = kept
    if (status := read_run(folder).get("status")) in ("finished", DONE):
        what = "run" if status == "finished" else "part of a run"
        reporter.note(f"{folder}: this {what} is finished already")
        # Nothing will be computed: a file that is lost must not pass for an empty one.
        return read(folder)
    told = callbacks_of(execution, callbacks, folder)
    with executor_of(execution, executor) as executor:
        lock = Lock(folder, take_over=take_over)
        try:
            writer, prepared, place = reopen(folder, lock, protocol, execution, before, wish, place, reporter, watch)
            given = fitted_weights(protocol, prepared.spec, weights)
        except BaseException:
            lock.release()
            raise
        telling = Telling(told, folder, reporter)
        own = _Run(prepared, place, protocol, execution, writer, reporter, stop, watch, given, executor, telling)
        return own.go(startup_seconds)


class _Run:
    """One process at work on a run."""

    def __init__(
        self,
        prepared: Prepared,
        data_place: DataPlace,
        protocol: Protocol,
        execution: Execution,
        writer: Writer,
        reporter: Reporter,
        stop: Stop | None,
        watch: Stopwatch,
        given: Mapping[Candidate, Weights],
        executor: Executor,
        telling: Telling,
    ) -> None:
        self.device, self.data, self.spec, self.plan = prepared
        self.protocol, self.execution, self.data_place = protocol, execution, data_place.absolute
        self.writer, self.reporter, self.watch = writer, reporter, watch
        self.given = {candidate: each.tensors for candidate, each in given.items()}
        self.timed_before: Mapping[str, object] = writer.run.get("timings") or {}
        networks = Networks(writer.directory, self.spec, protocol.hash, in_memory=protocol.tries_other_networks)
        self.telling, epochs = telling, telling.epochs if telling else None
        first = FirstTrainings(writer.directory, protocol.hash)
        noted = self.note_loss, self.note_split, epochs
        self.place = Surroundings(self.data, networks, first, reporter, stop or _never, *noted)
        self.executor = executor
        self.own_protocols: dict[tuple[Variant, str], tuple[Protocol, Spec]] = {}
        self.hash = protocol.hash
        self.shard = Shard.from_dict(writer.run.get("shard"))

    @property
    def finished(self) -> set[int]:
        """Numbers of the groups whose rows are in the results."""
        return set(self.writer.run["finished_groups"])

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
            shard = [tells(self.plan, self.shard)] if self.shard else []
            self.reporter.plan([*self.plan.lines(self.reporter.width), *shard])
            left = self.left()
            works, after = self.plan.work([*self.needed(left), *left])
            expected = {index: Work(*own, self.phases_at(index)) for index, own in works.items()}
            self.reporter.expect(expected, 0.0 if self.shard else after)
            self.watch.begin("writing")
            self.tell_start()
            self.watch.begin("groups")
            self.compute_all()
            self.note_trainings_left()
            if self.writer.directory is not None:
                forget_first(self.writer.directory)
            if self.protocol.tries_other_networks and self.shard is None:
                self.watch.begin("transfer")
                self.transfer()
            self.watch.begin("writing")
            self.writer.settle()
            timings = {"startup_seconds": startup_seconds, **self.timings()}
            return self.writer.finish({"timings": timings}, "finished" if self.shard is None else DONE)
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
        return 1 + self.protocol.setting("defence", self.plan.at(number).variant).trains

    def tell_start(self) -> None:
        """Tell the callbacks of the run, and what they do not know yet of members that are finished."""
        if self.telling:
            self.telling.start(self.writer.run, self.protocol, self.writer.directory)
            if self.finished:
                names = ("history", "metrics", "table")
                self.telling.finished(Rows(**{name: self.writer.rows(name) for name in names}))

    def compute_all(self) -> None:
        """Have every group computed that is not finished; those that were divided come in a further round."""
        while left := self.left():
            for outcome in self.executor.map(self.tasks(left), self.place):
                with self.watch.within("writing"):
                    if isinstance(outcome.task, TrainingTask):
                        self.note_training(outcome.task, outcome)
                    elif outcome.rows is None:
                        self.divide(outcome)
                    else:
                        self.take(outcome)

    def tasks(self, groups: Sequence[int]) -> list[Task]:
        """The tasks of groups, each behind the first trainings that it needs and that are not done."""
        made: list[Task] = []
        waiting = {self.plan.trainings[-1 - number].key: number for number in self.needed(groups)}
        for task in map(self.task, groups):
            made += [self.training(waiting.pop(each.key)) for each in task.trainings if each.key in waiting]
            made.append(task)
        return made

    def needed(self, groups: Sequence[int]) -> list[int]:
        """Numbers of the first trainings that groups need and that are not done."""
        wanted = {each for task in map(self.task, groups) for each in task.trainings if not task.is_past(each)}
        numbered = enumerate(self.plan.trainings)
        return [-1 - place for place, each in numbered if each in wanted and self.place.first.get(each) is None]

    def left(self) -> list[int]:
        """Numbers of the groups that are still to be computed here."""
        numbered, finished = enumerate(self.plan.groups), self.finished
        return [
            index
            for index, group in numbered
            if index not in finished and (self.shard is None or self.shard.has(group))
        ]

    def task(self, index: int) -> GroupTask:
        """The task of a group of the plan."""
        asked, execution, group = self.protocol, self.execution, self.plan.groups[index]
        own, spec = self.own_protocol(group.variant, group.precision)
        candidates = {member.candidate for member in group.members}
        trainings = needed_by(group, self.plan.trainings)
        return GroupTask(
            protocol=own,
            spec=spec,
            group=group,
            index=index,
            total=len(self.plan.groups),
            device=self.device,
            data=self.data_place,
            folder=self.writer.directory,
            checkpoint_every=execution.checkpoint_every,
            run_hash=self.hash,
            shared={
                "dataset": self.data.name, "defence": str(own.defence),
                "version": __version__, "protocol_hash": self.hash,
            },
            population=len(asked.pairs),
            memory_bytes=memory_cap(execution, self.device),
            given={each: tensors for each, tensors in self.given.items() if each in candidates},
            trainings=trainings,
            files=() if self.writer.directory is None else tuple(first_name(each.key) for each in trainings),
        )  # fmt: skip

    def training(self, number: int) -> TrainingTask:
        """The task of a first training."""
        training = self.plan.trainings[-1 - number]
        own, spec = self.own_protocol(training.variants[0], training.group.precision)
        return TrainingTask(
            protocol=own,
            spec=spec,
            training=training,
            index=number,
            total=len(self.plan.trainings),
            device=self.device,
            data=self.data_place,
            folder=self.writer.directory,
            checkpoint_every=self.execution.checkpoint_every,
            run_hash=self.hash,
            shared={},
            memory_bytes=memory_cap(self.execution, self.device),
        )

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
        for training in self.plan.trainings:
            if {**training.record, "seconds": None} not in known and (done := self.place.first.get(training)):
                self.record_training(training, done.seconds)

    def record_training(self, training: Training, seconds: float) -> None:
        """Put a first training into run.json."""
        record = {**training.record, "seconds": seconds}
        self.writer.update({"trainings": [*self.writer.run.get("trainings", ()), record]})

    def own_protocol(self, variant: Variant, precision: str) -> tuple[Protocol, Spec]:
        """The experiment of groups of a variant, and what their networks share.

        They are made once: ten thousand candidates take a while to check.
        """
        key = variant, precision
        if key not in self.own_protocols:
            own = group_protocol(self.protocol, variant, len(self.data.test))
            self.own_protocols[key] = own.replace(precision=precision), spec_of(own, self.spec)
        return self.own_protocols[key]

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
        table, folder, groups = self.writer.rows("table"), self.writer.directory, self.plan.groups
        files = {} if folder is None else files_of(folder, (group.members for group in groups))
        at_once = sharing_memory(self.executor, self.device)
        found = []
        for variant in self.protocol.variants:
            own = of_variant(groups, variant)
            some = next(i for i, group in enumerate(groups) if {*group.members} >= {*own[0].members})
            protocol = group_protocol(self.protocol, variant, len(self.data.test))
            task = dataclasses.replace(self.task(some), protocol=protocol.replace(precision=groups[some].precision))
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
        index, group, reason = outcome.task.index, outcome.task.group, outcome.reason
        if len(group.members) == 1 or ENGINES.get(group.engine).one_by_one:
            raise InputError(
                f"memory: expected room for {group.label} one member at a time, found none ({reason}); free some "
                "(--memory only caps what is planned), or start anew with a lower --batch-size or --train-size"
            )
        sizes = len(self.data.train), len(self.data.test)
        task = outcome.task
        first, second = halves(group, task.protocol, task.spec, *sizes, self.device.type, self.data.streamed)
        self.reporter.note(f"{group.label}: out of memory ({reason}); goes on as two groups")
        groups = self.plan.groups
        self.plan = dataclasses.replace(self.plan, groups=(*groups[:index], first, *groups[index + 1 :], second))
        folder = self.writer.directory
        if folder is not None:
            hand_on_checkpoints(folder, (first, second))
        split: Row = {"group": index, "phase": None, "members": len(group.members), "reason": reason}
        self.note_split(split, plan=self.plan.to_dict())
        if folder is not None:
            remove_other_checkpoints(folder, self.unfinished())

    def unfinished(self) -> Collection[Group]:
        """The groups whose rows are still to come."""
        finished = self.finished
        return [group for index, group in enumerate(self.plan.groups) if index not in finished]

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
