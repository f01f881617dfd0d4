"""The two ways into a run: to begin it, and to go on with it. Both prepare it, and leave the rest to a `Session`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from atras.environment import describe
from atras.errors import InputError
from atras.evaluation import keeps_outcomes, outcome_rows
from atras.experiment import Execution, OwnNetworks, Protocol, with_networks
from atras.loggers import Callback
from atras.networks import Weights
from atras.results import Results, Writer, check_rows, read, read_run
from atras.storage import Lock, expanded, is_file
from atras.version import __version__

from .data_place import DataPlace
from .executors import Executor, executor_of
from .fresh_seeds import check_fresh
from .given import fitted_weights, weights_again
from .plan_tasks import PlanTasks
from .prepare import prepare
from .progress import Reporter
from .reopen import check_same, recorded, reopen, session_record
from .said_before import cautions_before
from .session import Session, Stop
from .shards import DONE, for_machines, take_shard
from .stopwatch import Stopwatch
from .telling import Telling, callbacks_of


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
        tasks = PlanTasks(prepared, place, protocol, execution, writer, given)
        return Session(tasks, reporter, stop, watch, executor, telling).go(startup_seconds)


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
        tasks = PlanTasks(prepared, place, protocol, execution, writer, given)
        return Session(tasks, reporter, stop, watch, executor, telling).go(startup_seconds)
