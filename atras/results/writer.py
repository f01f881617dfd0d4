"""A run's folder while it is written: locked, and whole at every moment."""

from __future__ import annotations

import contextlib
import json
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from atras.errors import InputError
from atras.experiment import recorded_pairs
from atras.networks import Member
from atras.storage import SEARCH, Lock, expanded, remove_partials, take_folder, write_file

from .finished import FOLDER, remove_finished, write
from .frames import check_rows, csv, empty, frame_of, parquet
from .order import check_members, in_order, packed_in_order
from .results import Results, check_run, read, run_json
from .schemas import OPTIONAL, SCHEMAS, VERSION
from .variants import axis_types, variants_of, with_axes

MOST_ROWS = 20_000
"""Rows of a run, of all frames, up to which a group's rows are written with all others, a fraction of a second. Those
of a group that comes later are a file of their own until the run ends: writing them costs what they are."""

MOST_LAST_ROWS = 4_000_000
"""Those of a run up to which the last group is written with the others before it, where they are not apart: alone it
would be written, read and written again."""

MOST_MEMBERS = 1_000
"""Members of a run up to which run.json, which has a plan of them all, is written with each group."""

_FILES = ("run.json", "table.csv", *(f"{name}.parquet" for name in SCHEMAS))


class Rows(typing.Protocol):
    """Rows of one group, by frame: each row a dict from column to value."""

    table: list[dict[str, object]]
    metrics: list[dict[str, object]]
    history: list[dict[str, object]]
    timings: list[dict[str, object]]
    transfer: list[dict[str, object]]
    examples: list[dict[str, object]]
    outcomes: list[dict[str, object]]


class Writer:
    """Collects a run's rows and keeps its files whole, in a folder that is locked until `close`.

    Args:
        directory: folder for the files, made if need be; None keeps the frames in memory only.
        run_info: JSON values for run.json: at least protocol (with dataset, candidates, seeds), protocol_hash, version.

    Raises:
        InputError: if the folder holds a run already, is another's, or cannot be written; or if its frames would be
            larger than can be read back.
    """

    _lock: Lock | None

    def __init__(self, directory: str | Path | None, run_info: Mapping[str, Any]) -> None:
        run = {"schema": VERSION, **run_info, "status": "running"}
        self._begin(None if directory is None else expanded(directory), run, None)
        _check_sizes(self.run["protocol"])
        content = run_json(self.run)
        if self.directory is None:
            return
        self._lock = _claim(self.directory)
        try:
            self._write_run(content)
            self._write_frames(name for name in SCHEMAS if name not in OPTIONAL)
        except BaseException:
            # Nothing was here before: leave the folder free for the next attempt.
            for name in _FILES:
                with contextlib.suppress(OSError):
                    (self.directory / name).unlink()
            self.close()
            raise

    @classmethod
    def reopen(cls, directory: Path, lock: Lock, members: Collection[Member], groups: Mapping[int, int]) -> Writer:
        """Go on with a run's folder.

        Args:
            directory: with a run.json.
            lock: on it.
            members: those that are finished: rows of others are dropped.
            groups: the numbers of the finished ones so far, and from now on.

        Raises:
            InputError: if a file is damaged.
        """
        remove_partials(directory, *(path for path in directory.iterdir() if path.is_dir()))
        # Killed at its very start, a run has no frames yet.
        results = read(directory, missing=not groups)
        writer = cls.__new__(cls)
        writer._begin(directory, results.run, lock)
        writer._frames = rows_of_members(results, members, groups)
        writer._write_whole()
        return writer

    def _begin(self, directory: Path | None, run: dict[str, Any], lock: Lock | None) -> None:
        self.directory, self.run = directory, run
        self._lock = lock
        check_run(run, "run_info")
        protocol = run["protocol"]
        self._variants = variants_of(protocol)
        self._protocol = protocol
        self._members = len(recorded_pairs(protocol)) * len(protocol["seeds"])
        self._frames = {name: empty(name, axis_types(self._variants)) for name in SCHEMAS}
        self._apart = False

    def rows(self, frame: str) -> list[dict[str, object]]:
        """Rows of a frame so far, in order."""
        self.settle()
        return self._frames[frame].to_dicts()

    def append(self, rows: Rows) -> None:
        """Add rows, put all in the order of candidates, variants and seeds, and write the files anew.

        Raises:
            InputError: if a row does not fit its schema, or a file cannot be written; files then keep their content.
        """
        self.extend(self._frames_of(rows))

    def _frames_of(self, rows: Rows) -> dict[str, pl.DataFrame]:
        """Rows as frames, with columns for the run's axes."""
        given = {name: getattr(rows, name) for name in SCHEMAS}
        given["outcomes"] = packed_in_order(given["outcomes"], self._protocol)
        frames = {name: frame_of(name, given[name]) for name in SCHEMAS}
        return {name: with_axes(name, frame, self._variants) for name, frame in frames.items()}

    def append_group(
        self, group: int, rows: Rows, warnings: typing.Sequence[str] = (), timings: Mapping[str, Any] | None = None
    ) -> None:
        """Add a finished group's rows, and record that it is finished.

        Args:
            group: its number in the plan.
            rows: its rows.
            warnings: cautions about them.
            timings: of the run so far.

        Raises:
            InputError: as `append`; the group then is not recorded as finished.
        """
        frames = self._frames_of(rows)
        told = [*self.run.get("warnings", ()), *warnings]
        numbers = sorted([*self.run.get("finished_groups", ()), group])
        record = {"finished_groups": numbers, "warnings": told, "timings": dict(timings or {})}
        count = sum(map(len, (*frames.values(), *self._frames.values())))
        small = count <= MOST_ROWS and self._members <= MOST_MEMBERS
        if self.directory is None:
            self._add(frames)
            self.run |= record
        elif (small or (count <= MOST_LAST_ROWS and self._is_last(numbers))) and not self._apart:
            self.extend(frames)
            self.update(record)
        else:
            for frame in frames.values():
                check_members(frame, self._protocol)
            write(self.directory, group, {"warnings": list(warnings), "timings": dict(timings or {})}, frames)
            self._apart = True
            self.run |= record

    def _is_last(self, numbers: Collection[int]) -> bool:
        """Whether the run is whole when these groups are finished."""
        groups = (self.run.get("plan") or {}).get("groups")
        return isinstance(groups, list) and len(numbers) == len(groups)

    def extend(self, frames: Mapping[str, pl.DataFrame]) -> None:
        """Add rows of frames as other folders have them, as `append` does.

        Raises:
            InputError: as `append`.
        """
        self.settle()
        self._add(frames)
        self._frames |= in_order({name: self._frames[name] for name in frames}, self._protocol)
        self._write_frames(name for name, frame in frames.items() if len(frame))

    def settle(self) -> None:
        """Bring the rows of all groups into the frames, if some are in files of their own, and write run.json.

        Raises:
            InputError: if a file cannot be read or written; nothing is lost then.
        """
        if not self._apart or self.directory is None:
            return
        self._frames = {}  # all are in the files
        results = read(self.directory)
        self._frames = {name: getattr(results, name) for name in SCHEMAS}
        self._write_whole()

    def _add(self, frames: Mapping[str, pl.DataFrame]) -> None:
        """Put rows behind those that there are; if some are of no member, none is added."""
        for frame in frames.values():
            check_members(frame, self._protocol)
        self._frames |= {name: self._frames[name].vstack(frame) for name, frame in frames.items()}

    def _write_whole(self) -> None:
        """All rows as frames, and only then that they are there, and only then without the files of their groups."""
        there = set() if self.directory is None else {path.stem for path in self.directory.glob("*.parquet")}
        # One that is there may have rows that are dropped now.
        self._write_frames(
            name for name, frame in self._frames.items() if len(frame) or name not in {*OPTIONAL} - there
        )
        self._write_run(run_json(self.run))
        if self.directory is not None:
            remove_finished(self.directory)
        self._apart = False

    def update(self, run_info: Mapping[str, Any]) -> None:
        """Write run.json with values that replace or join those it has.

        Raises:
            InputError: if run.json cannot be written.
        """
        self.run |= run_info
        self._write_run(run_json(self.run))

    def close(self) -> None:
        """Let others write to the folder; may be called twice."""
        if self._lock is not None:
            self._lock.release()

    def finish(self, run_info: Mapping[str, Any], status: str = "finished") -> Results:
        """Write run.json for the last time, and let go of the folder.

        Args:
            run_info: JSON values that replace or join those given at the start, such as timings.
            status: of a whole run; another word for a part of one.

        Raises:
            InputError: if run.json cannot be written.
        """
        self.settle()
        if self.directory is None:
            self._frames = in_order(self._frames, self._protocol)
        self.run |= {**run_info, "status": status}
        self._write_run(run_json(self.run))
        self.close()
        # As it will be read back: tuples have become lists.
        frames: dict[str, Any] = self._frames
        return Results(**frames, run=json.loads(json.dumps(self.run)), directory=self.directory)

    def _write_frames(self, names: typing.Iterable[str]) -> None:
        if self.directory is None:
            return
        for name in names:
            frame = self._frames[name]
            write_file(self.directory / f"{name}.parquet", [parquet(frame, _member_rows(name, frame))])
            if name == "table":
                write_file(self.directory / "table.csv", [csv(self._frames[name])])

    def _write_run(self, content: bytes) -> None:
        if self.directory is not None:
            write_file(self.directory / "run.json", [content])


def rows_of_members(
    results: Results, members: Collection[Member], groups: Mapping[int, int]
) -> dict[str, pl.DataFrame]:
    """The rows of finished members in each frame, without transfer, which is made of all members at the very end.

    Args:
        results: a run's.
        members: the finished ones.
        groups: the numbers of their groups so far, and from now on.
    """
    names = {"hidden_layers": pl.String, "variant": pl.String, "seed": pl.Int64}
    rows = [(member.candidate.name, member.variant.name, member.seed) for member in members]
    done = pl.DataFrame(rows, schema=names, orient="row")
    frames = {}
    for name in SCHEMAS:
        frame = getattr(results, name)
        if "hidden_layers" in frame.columns:
            frame = frame.join(done, on=list(names), how="semi", maintain_order="left")
        frames[name] = _renumbered(frame, groups) if name == "timings" else frame
    return frames | {"transfer": results.transfer.clear()}


def _check_sizes(protocol: dict[str, Any]) -> None:
    """Refuse a run at its start whose largest frames could not be read back at its end."""
    variants = variants_of(protocol)
    values = {row["variant"]: protocol | row for row in variants.to_dicts()}
    own = [values[variant.name] for _, variant in recorded_pairs(protocol)]
    epochs = sum(one.get(name) or 0 for one in own for name in ("epochs", "adversarial_epochs"))
    check_rows(len(protocol["seeds"]) * epochs, "history")
    most = len(protocol["candidates"]) * len(protocol["seeds"])
    check_rows(len(variants) * _transfer_rows(protocol, most), "transfer")


def _transfer_rows(protocol: Mapping[str, Any], members: int) -> int:
    """Most rows that the frame `transfer` can have of a variant."""
    surrogates = sum("surrogate=" in attack for attack in protocol.get("attacks", ()))
    epsilons = 1 + len(protocol.get("epsilons", ()))
    if not protocol.get("transfer"):
        return 2 * members * surrogates * epsilons
    sources = len(protocol.get("transfer_sources") or protocol["candidates"])
    targets = len(protocol.get("transfer_targets") or protocol["candidates"])
    seeds = len(protocol["seeds"])
    pairs = seeds if protocol.get("transfer_seeds", "same") == "same" else seeds**2
    attacks = len(protocol.get("transfer_attacks", [""]))
    return 2 * epsilons * (members * surrogates + attacks * sources * targets * pairs)


def _member_rows(name: str, frame: pl.DataFrame) -> int | None:
    """Rows of a member of frame `outcomes`, whose row groups are members."""
    if name != "outcomes":
        return None
    longest = frame.group_by("hidden_layers", "variant", "seed").len()["len"].max()
    return int(longest)  # type: ignore[arg-type]


def _renumbered(timings: pl.DataFrame, groups: Mapping[int, int]) -> pl.DataFrame:
    """The rows of some groups, under new numbers."""
    own = timings.filter(pl.col("group").is_in(list(groups)))
    return own.with_columns(pl.col("group").replace(groups)) if groups else own


def _claim(folder: Path) -> Lock:
    """Make the folder if need be, and take it, if it holds no run."""
    lock = take_folder(folder)
    if there := [name for name in (*_FILES, FOLDER, SEARCH) if (folder / name).exists()]:
        lock.release()
        raise InputError(
            f"out (={str(folder)!r}): expected a folder without a run, found {there[0]}; name another folder, or go on "
            "with it by --resume"
        )
    remove_partials(folder)
    return lock
