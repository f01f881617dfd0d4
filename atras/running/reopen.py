"""Going on with a run: what its folder records, whether it is the same run, and a plan for what is left of it."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from atras.data import DATASETS
from atras.engines import DTYPES
from atras.environment import describe
from atras.errors import InputError
from atras.experiment import Execution, Loaded, OwnNetworks, Protocol, load_config
from atras.planning import Machine, Plan
from atras.results import Writer, read_run
from atras.storage import Lock, expanded, is_file, near_misses
from atras.torch_state import threads
from atras.training import Networks

from .data_place import DataPlace, RecordedData
from .divided import hand_on_checkpoints, remove_other_checkpoints
from .plans import limit_lines, memory_cap, plan_again, predicted_transfer_bytes, unfit
from .prepare import Prepared, load_data
from .progress import Reporter
from .shards import Shard
from .stopwatch import Stopwatch


def recorded(directory: str | Path, networks: OwnNetworks | None = None) -> Loaded:
    """The record in a run's folder, for `resume`.

    Args:
        directory: the run's folder.
        networks: modules of the user that it has, given anew.

    Raises:
        InputError: if it holds no run, or one of another version of atras.
    """
    path = expanded(directory) / "run.json"
    if not is_file(path):
        raise InputError(
            f"resume (={str(directory)!r}): expected the folder of a run or a search, found no run.json in it; start "
            f"one with --out{near_misses(path)}"
        )
    return load_config(path, networks)


def check_same(recorded: Protocol, given: Protocol | None, advice: str = "leave that out, or start a new run") -> None:
    """Refuse to go on under another protocol.

    Of the precision only the type of the networks' numbers must stay; a path of the data may be another, as their
    checksums are compared later.

    Args:
        recorded: that of what is to be gone on with.
        given: what was asked for; None for the same.
        advice: what to do about another one.

    Raises:
        InputError: if it is another; the fields that differ are named.
    """
    if given is None:
        return
    for name, factory in recorded.factories.items():
        if name in given.factories:
            factory.check_source(given.factories[name])
    old, new = ({"networks": None} | protocol.to_dict() for protocol in (recorded, given))
    old["networks"], new["networks"] = (
        {name: factory.identity for name, factory in protocol.factories.items()} for protocol in (recorded, given)
    )
    if not {recorded.dataset, given.dataset} <= set(DATASETS):
        new["dataset"] = old["dataset"]
    if DTYPES[given.precision] == DTYPES[recorded.precision]:
        new["precision"] = old["precision"]
    shown = [f"{name} (={_short(new[name])}, recorded {_short(old[name])})" for name in old if old[name] != new[name]]
    if not shown:
        return
    raise InputError(f"resume: expected the recorded protocol, got another {', '.join(shown)}; {advice}")


def reopen(
    folder: Path,
    lock: Lock,
    protocol: Protocol,
    execution: Execution,
    before: Execution,
    wish: str | None,
    place: DataPlace,
    reporter: Reporter,
    watch: Stopwatch,
) -> tuple[Writer, Prepared, DataPlace]:
    """The run's folder as it was left, with a plan for this machine, and where its data are now.

    Args:
        folder, lock, protocol: the run's.
        execution, before: as asked for now, and as recorded.
        wish: another precision than the protocol's, for what is left.
        place: where the data are said to be.
        reporter: told of images that are decoded.
        watch: told of what begins.
    """
    run = read_run(folder)
    places = run.get("data_places")
    found = RecordedData(place, DataPlace.of(protocol, before), folder, places, run.get("data") or {})
    load = watch.loading(partial(found.load, progress=reporter.decoding))
    here = device, data, spec = load_data(protocol, execution, load)
    old = Plan.from_dict(dict(run.get("plan") or {}), protocol)
    finished = _finished(run, old, folder)
    done = [old.groups[index] for index in finished]
    shard = Shard.from_dict(run.get("shard"))
    missing = [group for index, group in enumerate(old.groups) if index not in finished]
    left = tuple(group for group in missing if shard is None or shard.has(group))
    others = tuple(group for group in missing if group not in left)
    reason = _asked_anew(execution, before, wish, old) or unfit(old, left, protocol, execution, *here)
    warnings = list(run.get("warnings", ()))
    if reason and left:
        members = [member for group in (*done, *others) for member in group.members]
        # What was recorded gives way where this machine cannot do it; what is asked for now does not.
        engines = [execution.engine, *(["auto"] if execution.engine == before.engine else [])]
        precisions = [wish] if wish else [old.precision, *(["auto"] if protocol.precision != "fp64" else [])]
        choices = list(itertools.product(engines, precisions))
        new = dataclasses.replace(plan_again(protocol, execution, *here, choices, members), replanned=reason)
        if new.precision != old.precision:
            warnings.append(f"precision: trained in {old.precision} so far, {new.precision} from here on ({reason})")
        left = new.groups
        hand_on_checkpoints(folder, left)
        # Finished groups come first, whatever the number of the others.
        groups = (*done, *left, *others)
        machine = Machine(device.type, memory_cap(execution, device), threads=threads().amount)
        transfer = predicted_transfer_bytes(groups, protocol.replace(precision=new.precision), spec, machine)
        plan = dataclasses.replace(new, groups=groups, predicted_transfer_bytes=transfer)
        numbers = {index: at for at, index in enumerate(finished)}
    else:
        plan = dataclasses.replace(old, device=str(device), limits=limit_lines(execution, device, data))
        numbers = {index: index for index in finished}
    watch.begin("writing")
    writer = Writer.reopen(folder, lock, [member for group in done for member in group.members], numbers)
    # Where members train one by one, those of an unfinished group that are done already are not made anew.
    same = {(group.engine, group.members) for group in left}
    kept = [*done, *(group for group in old.groups if (group.engine, group.members) in same)]
    Networks(folder, spec, protocol.hash).forget_others(group.members for group in kept)
    prepared = Prepared(device, data, spec, plan)
    sessions = [*run.get("sessions", ()), session_record(prepared, execution, run.get("status"))]
    writer.update({
        "status": "running", "plan": plan.to_dict(), "finished_groups": list(numbers.values()), "sessions": sessions,
        "data_places": found.place.remembered(folder, places), "warnings": warnings,
    })  # fmt: skip
    remove_other_checkpoints(folder, left)
    return writer, prepared, found.place


def _asked_anew(execution: Execution, before: Execution, wish: str | None, old: Plan) -> str:
    """What was asked for that a plan is not made for; empty where nothing was."""
    if execution.engine != before.engine:
        return f"engine {execution.engine} is asked for"
    if execution.memory_bytes != before.memory_bytes:
        return "another memory cap is asked for"
    return f"precision {wish} is asked for" if wish not in (None, "auto", old.precision) else ""


def _finished(run: Mapping[str, Any], plan: Plan, folder: Path) -> list[int]:
    """The numbers of a run's finished groups, in the order of the plan."""
    numbers: Any = run.get("finished_groups")
    known = range(len(plan.groups))
    given: list[Any] = numbers if isinstance(numbers, list) else [None]
    if all(type(number) is int and number in known for number in given) and len(set(given)) == len(given):
        return sorted(given)
    raise InputError(
        f"{folder / 'run.json'}: finished_groups (={numbers!r}): expected numbers of groups of its plan; restore it"
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def session_record(prepared: Prepared, execution: Execution, status: object) -> dict[str, Any]:
    """The record of one process that worked on a run. Its times stay out of the tables."""
    plan = prepared.plan
    return {
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "found": status,
        "device": str(prepared.device), "threads": threads().amount, "engine": plan.engine,
        "precision": plan.precision, "memory_bytes": execution.memory_bytes, "planned_anew": plan.replanned or None,
        "environment": describe(prepared.device),
    }  # fmt: skip
