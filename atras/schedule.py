"""The orchestrator: loads the data, plans, computes group after group, and hands the rows to the results."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import __version__
from .calibrate import speed
from .data import Dataset, load
from .engine import DTYPES, Engine
from .env import attack_backend, choose_device, describe, total_memory
from .fused import FusedEngine, has_bf16, why_not, why_slow
from .loop import LoopEngine
from .measure import Row, Rows
from .model import Spec, make_spec
from .plan import MEMORY_SHARE, Group, Machine, Plan, choose_engine, make_groups, predict, reason_for
from .progress import Reporter
from .protocol import Execution, Protocol
from .results import Results, Writer
from .stack import StackEngine
from .train import run_group, steps_of

ENGINES: dict[str, type[Engine]] = {"loop": LoopEngine, "stack": StackEngine, "fused": FusedEngine}


class Prepared(NamedTuple):
    """What a run needs before its first step."""

    device: torch.device
    data: Dataset
    spec: Spec
    plan: Plan


def run(
    protocol: Protocol | None = None,
    execution: Execution | None = None,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    config_plan: Mapping[str, Any] | None = None,
    startup_seconds: float | None = None,
) -> Results:
    """Train, attack, defend and re-attack every member of a protocol.

    Args:
        protocol: what to compute; the default is the paper's population on the bundled digits.
        execution: where and how.
        out: folder for the results, new or empty; None keeps them in memory.
        reporter: told of the plan and of every epoch; None for silence.
        config_plan: the plan that an earlier run recorded, to be repeated.
        startup_seconds: time that the caller spent before this call, for `run.json`.

    Returns:
        The frames of the run. `out` holds them too, and is up to date after each group.

    Raises:
        InputError: if the data, the device, the memory cap or `out` cannot be used.
    """
    start = time.perf_counter()
    protocol, execution = protocol or Protocol(), execution or Execution()
    reporter = reporter or Reporter()
    device, data, spec, plan = prepare(protocol, execution, config_plan)
    writer = Writer(out, {
        "protocol": protocol.to_dict(), "protocol_hash": protocol.hash, "version": __version__,
        "execution": execution.to_dict(), "environment": describe(device), "data": data.provenance(),
        "model": dataclasses.asdict(spec), "plan": plan.to_dict(),
    })  # fmt: skip
    constants: Row = {
        "dataset": data.name, "precision": plan.precision, "version": __version__, "protocol_hash": protocol.hash,
    }  # fmt: skip
    resolved = protocol.replace(precision=plan.precision)
    try:
        reporter.plan(plan.lines())
        for index, group in enumerate(plan.groups):
            rows = _compute(index, len(plan.groups), group, data, spec, resolved, device, reporter)
            writer.append(_complete(rows, index, constants))
    finally:
        reporter.close()
    seconds = {"startup_seconds": startup_seconds, "run_seconds": time.perf_counter() - start}
    return writer.finish({"timings": seconds})


def make_plan(protocol: Protocol, execution: Execution, config_plan: Mapping[str, Any] | None = None) -> Plan:
    """What `run` would do with the same arguments, with predicted seconds; nothing is trained.

    Raises:
        InputError: as `run`.
    """
    return prepare(protocol, execution, config_plan).plan


def prepare(protocol: Protocol, execution: Execution, config_plan: Mapping[str, Any] | None = None) -> Prepared:
    """Choose the device, load the data on it, and plan or take the recorded plan.

    Raises:
        InputError: as `run`.
    """
    device = choose_device(execution.device)
    attack_backend(device, DTYPES[protocol.precision])
    if device.type == "cuda":
        _exact_arithmetic()
    data = load(
        protocol.dataset,
        train_size=protocol.train_size,
        test_size=protocol.test_size,
        data_dir=execution.data_dir,
        download=execution.download,
        device=device,
    )
    protocol.check_classes(data.classes)
    spec = make_spec(protocol, data.image_shape, data.classes)
    if config_plan is not None:
        return Prepared(device, data, spec, Plan.from_dict(dict(config_plan), protocol))
    machine = Machine(
        kind=device.type,
        memory_bytes=execution.memory_bytes or int(MEMORY_SHARE * total_memory(device)),
        fused=why_not(device),
        bf16=has_bf16(),
        threads=torch.get_num_threads(),
        fused_slow=why_slow(),
    )
    engine, precision = choose_engine(execution.engine, protocol.precision, spec, machine)
    resolved = protocol.replace(precision=precision)
    sizes = len(data.train.labels), len(data.test.labels)
    measured = speed(ENGINES[engine], spec, resolved, device, anew=execution.recalibrate)
    groups = make_groups(resolved, spec, *sizes, engine, machine)
    predicted = tuple(predict(group, spec, resolved, *sizes, measured) for group in groups)
    reason = reason_for(execution.engine, engine, machine)
    return Prepared(device, data, spec, Plan(str(device), engine, precision, predicted, reason))


def _compute(
    index: int,
    total: int,
    group: Group,
    data: Dataset,
    spec: Spec,
    protocol: Protocol,
    device: torch.device,
    reporter: Reporter,
) -> Rows:
    """One group's rows: all its members at once, or one after the other in the loop engine."""
    start = time.perf_counter()
    engine = ENGINES[group.engine]
    parts = [[member] for member in group.members] if group.engine == "loop" else [list(group.members)]
    steps = len(parts) * steps_of(protocol, len(data.train.labels))
    reporter.group_started(index, total, group.label, len(group.members), steps)
    done = 0

    def progress(phase: str, epoch_steps: int, loss: float, accuracy: float) -> None:
        nonlocal done
        done += epoch_steps
        reporter.progress(index, phase, done, loss if math.isfinite(loss) else None, accuracy)

    rows = Rows()
    for members in parts:
        rows.extend(
            run_group(
                engine(spec, members, protocol, device),
                data,
                protocol,
                evaluation_batch=group.evaluation_batch,
                progress=progress,
            )
        )
    _warn(rows, reporter)
    reporter.group_finished(index, time.perf_counter() - start)
    return rows


def _complete(rows: Rows, index: int, constants: Row) -> Rows:
    """Add what every row of the run shares, and sum the timings of members that ran one after the other."""
    for row in rows.metrics:
        row.update(constants)
    for row in rows.history:
        row["dataset"] = constants["dataset"]
    timings: dict[object, Row] = {}
    for row in rows.timings:
        if row["phase"] in timings:
            total: Any = timings[row["phase"]]
            for key in ("members", "seconds", "steps"):
                total[key] += row[key]
        else:
            timings[row["phase"]] = {"group": index, **row}
    rows.timings = list(timings.values())
    return rows


def _warn(rows: Rows, reporter: Reporter) -> None:
    """Tell of members whose figures need a second look."""
    for status, meaning in (
        ("dead", "predicts one class for every test image"),
        ("diverged", "has a loss that is not finite"),
    ):
        names = [f"{row['hidden_layers']} (seed {row['seed']})" for row in rows.table if row["status"] == status]
        if names:
            reporter.note(f"{status}: {', '.join(names)} {meaning}")
    for row in rows.table:
        clean, attacked = row["test_accuracy"], row["attacked_accuracy_before_true"]
        if isinstance(clean, float) and isinstance(attacked, float) and attacked > clean:
            reporter.note(
                f"{row['hidden_layers']} (seed {row['seed']}): more accurate under attack than without; weak gradients?"
            )


def _exact_arithmetic() -> None:
    """Full fp32 and repeatable results on a GPU, where cuDNN's defaults give neither."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
