"""Merging: the parts of a run that shards computed, made one run."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from atras.errors import InputError
from atras.experiment import Protocol, from_run
from atras.planning import Group, Plan, united
from atras.results import Results, Writer, read, rows_of_members
from atras.storage import expanded
from atras.training import FOLDER, checkpoint

from .shards import DONE, Shard
from .stopwatch import added_up

SAME = ("version", "protocol_hash", "model")
"""What all parts record alike."""

MOST_NAMED = 8
"""Most parts that an error names."""


class _Part(NamedTuple):
    """A shard's folder as it was read, its finished groups and their numbers there."""

    folder: Path
    results: Results
    shard: Shard
    plan: Plan
    done: list[Group]
    numbers: list[int]


def merge(parts: Sequence[str | Path], out: str | Path, *, partial: bool = False) -> Results:
    """Make one run of its parts: the tables, outcomes and networks that one machine would have given.

    Args:
        parts: folders of shards, in any order.
        out: a new or empty folder.
        partial: also where shards are missing or are not done; the rest is computed by `resume`.

    Returns:
        The run. It is finished, unless something is missing or networks are to be tried on each other's adversarial
        images, which `resume` does then.

    Raises:
        InputError: if a folder holds no shard, they are of different runs, data or versions, one is given twice, one
            is missing or not done and `partial` is not set, or `out` cannot be used.
    """
    read_parts = sorted((_read(expanded(part)) for part in parts), key=lambda part: part.shard.number)
    if not read_parts:
        raise InputError("merge: expected the folders of shards, got none; name them")
    first = read_parts[0]
    for other in read_parts[1:]:
        _check_same(first, other)
    protocol = Protocol(**from_run(first.results.run).protocol_fields)
    missing = _check_whole(read_parts, partial)
    done = [group for part in read_parts for group in part.done]
    left = _left(first, done)
    writer = Writer(out, _record(read_parts, (*done, *left), expanded(out)))
    try:
        writer.extend(_frames(read_parts))
        for part in read_parts:
            _copy_networks(part, expanded(out))
        writer.update({"finished_groups": list(range(len(done)))})
        seconds = added_up([part.results.run.get("timings") or {} for part in read_parts])
        timings = {"timings": {"startup_seconds": None, **seconds}}
        if left or missing or protocol.tries_other_networks:
            return writer.finish(timings, "interrupted")
        return writer.finish(timings)
    finally:
        writer.close()


def _read(folder: Path) -> _Part:
    results = read(folder, missing=True)
    protocol = Protocol(**from_run(results.run).protocol_fields)  # which makes modules of the user known by their names
    shard = Shard.from_dict(results.run.get("shard"))
    if shard is None:
        raise InputError(f"{folder}: expected the part of a run that --shard computes, found a whole run; leave it out")
    plan = Plan.from_dict(dict(results.run["plan"]), protocol)
    numbers = [int(number) for number in results.run["finished_groups"]]
    return _Part(folder, results, shard, plan, [plan.groups[number] for number in numbers], numbers)


def _check_same(first: _Part, other: _Part) -> None:
    """Refuse parts of different runs, of different data, and what different versions computed."""
    a, b = first.results.run, other.results.run
    for name in SAME:
        if a.get(name) != b.get(name):
            raise InputError(
                f"{other.folder}: expected {name} {a.get(name)} as in {first.folder}, got {b.get(name)}; merge "
                "parts of one run"
            )
    if first.shard.of != other.shard.of:
        raise InputError(
            f"{other.folder}: expected a part of {first.shard.of} as {first.folder}, got one of {other.shard.of}"
        )
    sums = [(run.get("data") or {}).get("sha256") for run in (a, b)]
    if sums[0] != sums[1]:
        raise InputError(f"{other.folder}: expected the images of {first.folder}, got others; give all shards the same")
    versions = [_versions(run) for run in (a, b)]
    if differing := sorted(
        name for name in versions[0].keys() | versions[1].keys() if len({v.get(name) for v in versions}) > 1
    ):
        told = ", ".join(f"{name} {versions[1].get(name)} for {versions[0].get(name)}" for name in differing)
        raise InputError(f"{other.folder}: computed with {told} than {first.folder}; install one version everywhere")


def _versions(run: Mapping[str, Any]) -> dict[str, str]:
    """Versions of what figures depend on."""
    found = (run.get("environment") or {}).get("versions") or {}
    return {name: str(found[name]) for name in ("atras", "torch", "triton", "numpy") if found.get(name)}


def _check_whole(parts: Sequence[_Part], partial: bool) -> bool:
    """Refuse what came twice, and unless asked otherwise what is missing; return whether anything is."""
    counts = Counter(part.shard.number for part in parts)
    twice = [number for number, count in counts.items() if count > 1]
    every = Counter(member for part in parts for group in part.done for member in group.members)
    if twice or any(count > 1 for count in every.values()):
        what = f"shard {twice[0]}" if twice else f"{next(m for m, n in every.items() if n > 1).name}"
        raise InputError(f"merge: expected every part once, {what} came twice; leave one out")
    of = parts[0].shard.of
    absent = [f"shard {number} of {of}" for number in range(1, of + 1) if number not in counts]
    undone = [
        f"{part.folder} ({part.results.run.get('status')})" for part in parts if part.results.run.get("status") != DONE
    ]
    if (absent or undone) and not partial:
        missing = [*absent, *undone]
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        raise InputError(
            f"merge: expected all {of} shards, done; missing: {', '.join(missing[:MOST_NAMED])}{more}; compute or "
            "--resume them, or merge what is there by --partial"
        )
    return bool(absent or undone)


def _left(first: _Part, done: Sequence[Group]) -> list[Group]:
    """The groups of the first part's plan, less the members that somebody has computed."""
    known = {member for group in done for member in group.members}
    own = [tuple(member for member in group.members if member not in known) for group in first.plan.groups]
    return [
        dataclasses.replace(group, members=left) for group, left in zip(first.plan.groups, own, strict=True) if left
    ]


def _record(parts: Sequence[_Part], groups: tuple[Group, ...], out: Path) -> dict[str, Any]:
    """The run.json of the whole: the first part's, with what the others have to add."""
    runs = [part.results.run for part in parts]
    kept = {key: value for key, value in runs[0].items() if key not in ("shard", "schema", "status")}
    trainings = united(training for part in parts for training in part.plan.trainings)
    places = [[place[0], os.path.relpath(place[0], out)] for run in runs for place in run.get("data_places", ())]
    return kept | {
        "execution": kept["execution"] | {"shard": None},
        "plan": dataclasses.replace(parts[0].plan, groups=groups, trainings=trainings).to_dict(),
        "trainings": [training for run in runs for training in run.get("trainings", ())],
        "data_places": list(map(list, dict.fromkeys(map(tuple, places)))),
        "finished_groups": [],
        "splits": [split for run in runs for split in run.get("splits", ())],
        "warnings": list(dict.fromkeys(line for run in runs for line in run.get("warnings", ()))),
        "sessions": [session for run in runs for session in run.get("sessions", ())],
        "merged_from": [str(part.folder) for part in parts],
    }


def _frames(parts: Sequence[_Part]) -> dict[str, pl.DataFrame]:
    """The rows of the finished groups of all parts, which are numbered through."""
    begins = itertools.accumulate((len(part.done) for part in parts), initial=0)
    each = [_rows(part, begin) for part, begin in zip(parts, begins, strict=False)]
    return {name: pl.concat([frames[name] for frames in each]) for name in each[0]}


def _rows(part: _Part, begin: int) -> dict[str, pl.DataFrame]:
    """The rows of a part's finished groups, which get numbers from `begin` on."""
    members = [member for group in part.done for member in group.members]
    groups = {number: begin + place for place, number in enumerate(part.numbers)}
    return rows_of_members(part.results, members, groups)


def _copy_networks(part: _Part, out: Path) -> None:
    """Copy the files of the networks of finished groups, whose names tell their members."""
    kept = {checkpoint.key_of(group.members) for group in part.done}
    for path in sorted((part.folder / FOLDER).glob("*.safetensors")):
        if path.stem.split("-")[1] in kept:
            (out / FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(path, out / FOLDER / path.name)
