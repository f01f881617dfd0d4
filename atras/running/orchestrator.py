"""The orchestrator: loads the data, plans, computes group after group, and hands the rows to the results."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from atras.engines.fused import why_not
from atras.environment import describe
from atras.errors import InputError, Interrupted
from atras.evaluation.cautions import cautions
from atras.evaluation.recorder import Row, Rows
from atras.experiment import config_file
from atras.experiment.options import Loaded
from atras.experiment.protocol import Execution, Protocol
from atras.planning.grouping import halves
from atras.planning.plan import Plan
from atras.results.results import Results, read, read_run
from atras.results.writer import Writer
from atras.storage import atomic_write
from atras.storage.bounded_read import is_file
from atras.training.weights import Networks
from atras.version import __version__

from .defence_source import defence_source, transfer_rows
from .prepare import Prepared, load_data, plan_again, prepare
from .progress import Reporter
from .task import Common, GroupRunner, free_memory, hand_on_checkpoints, out_of_memory, remove_other_checkpoints

Stop = Callable[[], bool]


def run(
    protocol: Protocol | None = None,
    execution: Execution | None = None,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    config_plan: Mapping[str, Any] | None = None,
    startup_seconds: float | None = None,
    stop: Stop | None = None,
) -> Results:
    """Train, attack, defend and re-attack every member of a protocol.

    Args:
        protocol: what to compute; the default is the paper's population on the bundled digits.
        execution: where and how.
        out: folder for the results, new or empty; None keeps them in memory.
        reporter: told of the plan and of the progress; None for silence.
        config_plan: the plan that an earlier run recorded, to be repeated.
        startup_seconds: time that the caller spent before this call, for `run.json`.
        stop: asked about once a second whether to stop.

    Returns:
        The frames of the run. `out` holds them too, and is up to date after each group.

    Raises:
        InputError: if the data, the device, the memory cap or `out` cannot be used.
        Interrupted: if `stop` said so; `resume` goes on with what is in `out`.
    """
    start = time.perf_counter()
    protocol, execution = protocol or Protocol(), execution or Execution()
    reporter = reporter or Reporter()
    prepared = prepare(protocol, execution, config_plan)
    device, data, spec, plan = prepared
    writer = Writer(out, {
        "protocol": protocol.to_dict(), "protocol_hash": protocol.hash, "version": __version__,
        "execution": execution.to_dict(), "environment": describe(device), "data": data.provenance(),
        "model": dataclasses.asdict(spec), "plan": plan.to_dict(), "splits": [], "finished_groups": 0,
        "warnings": [],
        "sessions": [_session(prepared, execution, "start")],
    })  # fmt: skip
    return _Run(prepared, protocol, execution, writer, reporter, stop, start).go(startup_seconds)


def resume(
    directory: str | Path,
    protocol: Protocol | None = None,
    execution: Execution | None = None,
    *,
    reporter: Reporter | None = None,
    startup_seconds: float | None = None,
    stop: Stop | None = None,
) -> Results:
    """Go on with a run that was killed, interrupted or failed. Finished groups are not computed again.

    On the same machine the result is bitwise that of a run that was never interrupted.

    Args:
        directory: the run's folder.
        protocol: None for the recorded one; another is refused.
        execution: None for the recorded one. With another device, engine or memory cap, what is unfinished is planned
            anew.
        reporter, startup_seconds, stop: as `run`.

    Returns:
        The frames of the whole run; those of a run that is finished already as they are.

    Raises:
        InputError: if the folder holds no run, is another's at the moment, or holds a damaged file; if the protocol or
            the data differ; and as `run`.
        Interrupted: as `run`.
    """
    start, folder, reporter = time.perf_counter(), Path(directory), reporter or Reporter()
    loaded = recorded(folder)
    check_same(Protocol(**loaded.protocol_fields), protocol)
    before = Execution(**loaded.execution_fields)
    protocol, execution = Protocol(**loaded.protocol_fields), execution or before
    if read_run(folder).get("status") == "finished":
        reporter.note(f"{folder}: this run is finished already")
        # Nothing will be computed: a file that is lost must not pass for an empty one.
        return read(folder)
    lock = atomic_write.Lock(folder)
    try:
        writer, prepared = _reopen(folder, lock, protocol, execution, before)
    except BaseException:
        lock.release()
        raise
    return _Run(prepared, protocol, execution, writer, reporter, stop, start).go(startup_seconds)


def recorded(directory: str | Path) -> Loaded:
    """What a run's folder says it is, for `resume`.

    Raises:
        InputError: if it holds no run, or one of another version of atras.
    """
    path = Path(directory) / "run.json"
    if not is_file(path):
        raise InputError(
            f"resume (={str(directory)!r}): expected the folder of a run or a search, found no run.json in it; start "
            "one with --out"
        )
    return config_file.load(path)


def check_same(recorded: Protocol, given: Protocol | None, advice: str = "leave that out, or start a new run") -> None:
    """Refuse to go on under another protocol.

    Args:
        recorded: that of what is to be gone on with.
        given: what was asked for; None for the same.
        advice: what to do about another one.

    Raises:
        InputError: if it is another; the fields that differ are named.
    """
    if given is None or given == recorded:
        return
    old, new = recorded.to_dict(), given.to_dict()
    shown = [f"{name} (={_short(new[name])}, recorded {_short(old[name])})" for name in old if old[name] != new[name]]
    raise InputError(f"resume: expected the recorded protocol, got another {', '.join(shown)}; {advice}")


def _reopen(
    folder: Path, lock: atomic_write.Lock, protocol: Protocol, execution: Execution, before: Execution
) -> tuple[Writer, Prepared]:
    """The run's folder as it was left, with a plan for this machine."""
    device, data, spec = load_data(protocol, execution)
    run = read_run(folder)
    if run.get("data", {}).get("sha256") != data.provenance()["sha256"]:
        raise InputError(f"{protocol.dataset}: expected the data that the run began with, found others; restore them")
    finished = run.get("finished_groups")
    plan = Plan.from_dict(dict(run.get("plan") or {}), protocol)
    if type(finished) is not int or not 0 <= finished <= len(plan.groups):
        raise InputError(f"{folder / 'run.json'}: finished_groups (={finished!r}): expected a number of groups")
    done = [member for group in plan.groups[:finished] for member in group.members]
    writer = Writer.reopen(folder, lock, [(member.candidate.name, member.seed) for member in done], finished)
    moved = (execution.engine, execution.memory_bytes) != (before.engine, before.memory_bytes)
    if moved or plan.device != str(device) or (plan.engine == "fused" and why_not(device)):
        new = plan_again(protocol, execution, device, data, spec, plan.precision, done)
        plan = dataclasses.replace(new, groups=(*plan.groups[:finished], *new.groups))
        hand_on_checkpoints(folder, plan.groups[finished:])
        Networks(folder, spec, protocol.hash).forget_from(finished)
    prepared = Prepared(device, data, spec, plan)
    sessions = [*run.get("sessions", ()), _session(prepared, execution, run.get("status"))]
    writer.update({"status": "running", "plan": plan.to_dict(), "sessions": sessions})
    remove_other_checkpoints(folder, plan.groups[finished:])
    return writer, prepared


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _session(prepared: Prepared, execution: Execution, found: object) -> dict[str, Any]:
    """What one process that worked on a run brings to it. Its times stay out of the tables."""
    plan = prepared.plan
    return {
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "found": found,
        "device": str(prepared.device), "threads": torch.get_num_threads(), "engine": plan.engine,
        "precision": plan.precision, "memory_bytes": execution.memory_bytes,
        "environment": describe(prepared.device),
    }  # fmt: skip


class _Run:
    """One process at work on a run."""

    def __init__(
        self,
        prepared: Prepared,
        protocol: Protocol,
        execution: Execution,
        writer: Writer,
        reporter: Reporter,
        stop: Stop | None,
        start: float,
    ) -> None:
        _, self.data, self.spec, self.plan = prepared
        self.writer, self.reporter, self.start = writer, reporter, start
        self.seconds_before = (writer.run.get("timings") or {}).get("run_seconds") or 0.0
        self.constants: Row = {
            "dataset": self.data.name, "precision": self.plan.precision, "version": __version__,
            "protocol_hash": protocol.hash,
        }  # fmt: skip
        self.common = Common(
            spec=self.spec,
            data=self.data,
            protocol=protocol.replace(precision=self.plan.precision),
            device=prepared.device,
            folder=writer.directory,
            checkpoint_every=execution.checkpoint_every,
            networks=Networks(writer.directory, self.spec, protocol.hash, in_memory=protocol.transfer),
            source=None,
            reporter=reporter,
            stop=stop or _never,
        )

    def go(self, startup_seconds: float | None) -> Results:
        """All groups that are left."""
        try:
            self.reporter.plan(self.plan.lines())
            index = self.writer.run["finished_groups"]
            if index < len(self.plan.groups):
                self.common = dataclasses.replace(self.common, source=defence_source(self.common, self.plan))
            while index < len(self.plan.groups):
                if self.common.stop():
                    raise Interrupted
                index += self.compute(index)
            if self.common.protocol.transfer:
                self.writer.append(transfer_rows(self.common, self.plan, self.writer.table()))
            return self.writer.finish({"timings": {"startup_seconds": startup_seconds, **self.timings()}})
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
        finally:
            self.reporter.close()
            self.writer.close()

    def compute(self, index: int) -> int:
        """A group, and how many are finished by it: one, or none where it had to be divided."""
        runner = GroupRunner(self.common, index, len(self.plan.groups), self.plan.groups[index])
        try:
            rows = runner.run()
        except Exception as error:
            if not out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
        else:
            found = cautions(rows, self.data.classes)
            for line in found:
                self.reporter.note(line)
            self.writer.append(_complete(rows, index, self.constants))
            warnings = [*self.writer.run.get("warnings", ()), *found]
            self.writer.update({"finished_groups": index + 1, "warnings": warnings, "timings": self.timings()})
            runner.forget()
            return 1
        # Out of the handler: it holds what the group had allocated.
        del runner
        free_memory()
        self.divide(index, reason)
        return 0

    def divide(self, index: int, reason: str) -> None:
        """Put two halves in the place of a group that memory does not suffice for."""
        groups, group = self.plan.groups, self.plan.groups[index]
        if len(group.members) == 1 or group.engine == "loop":
            raise InputError(
                f"memory: expected room for {group.label} one member at a time, found none ({reason}); free some "
                "(--memory only caps what is planned), or start anew with a lower --batch-size or --train-size"
            )
        sizes = len(self.data.train), len(self.data.test)
        two = halves(group, self.common.protocol, self.spec, *sizes, self.common.device.type)
        self.reporter.note(f"{group.label}: out of memory ({reason}); goes on as two groups")
        self.plan = dataclasses.replace(self.plan, groups=(*groups[:index], *two, *groups[index + 1 :]))
        if self.writer.directory is not None:
            hand_on_checkpoints(self.writer.directory, two)
        splits = [*self.writer.run.get("splits", ()), {"group": index, "members": len(group.members), "reason": reason}]
        self.writer.update({"plan": self.plan.to_dict(), "splits": splits})
        if self.writer.directory is not None:
            remove_other_checkpoints(self.writer.directory, self.plan.groups[index:])

    def leave(self, status: str) -> None:
        """Say in run.json how the run ended, if it can be written."""
        with suppress(InputError, OSError):
            self.writer.update({"status": status, "timings": self.timings()})

    def timings(self) -> dict[str, float]:
        return {"run_seconds": self.seconds_before + time.perf_counter() - self.start}


def _complete(rows: Rows, index: int, constants: Row) -> Rows:
    """Add what every row of the run shares, and the group's number to its timings."""
    for row in rows.metrics:
        row.update(constants)
    for row in (*rows.history, *rows.examples):
        row["dataset"] = constants["dataset"]
    rows.timings = [{"group": index, **row} for row in rows.timings]
    return rows


def _never() -> bool:
    return False
