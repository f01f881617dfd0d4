"""What the callbacks of a run are told: each row once, also over interruptions. Without those that
fail the run goes on.

In the run's folder, `told/NAME.jsonl` says how far each callback was told of each member.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from atras.errors import InputError
from atras.evaluation import Row, Rows
from atras.experiment import Execution, Protocol
from atras.loggers import LOGGERS, Callback, EpochRow, RunInfo
from atras.storage import read_regular, write_file
from atras.training import STAGES

from .epoch_rows import epoch_rows
from .progress import Reporter

FOLDER = "told"
MAX_BYTES = 2**30
"""Largest record of what was told that is read."""

DONE = len(STAGES), 0
"""How far a member is whose row of the table was told."""

Who = tuple[str, str, int]
"""Hidden layers, variant and seed of a member."""

Place = tuple[int, int]
"""How far a member was told of: the number of a stage, and the epoch in it."""


def callbacks_of(execution: Execution, given: Sequence[Callback], folder: Path | None) -> dict[str, Callback]:
    """The callbacks of a run by name: its loggers, and those given in Python by their class.

    Raises:
        InputError: if one is no callback, or as `Logger.callback`.
    """
    for each in given:
        if not isinstance(each, Callback):
            raise InputError(f"callbacks: expected objects of a class derived from atras.Callback, got {each!r:.100}")
    named = [(spelling, LOGGERS.parse(spelling).callback(folder)) for spelling in execution.log]
    named += [(type(each).__name__, each) for each in given]
    callbacks: dict[str, Callback] = {}
    for name, each in named:
        names = [name, *(f"{name} {number}" for number in range(2, 2 + len(callbacks)))]
        callbacks[next(own for own in names if own not in callbacks)] = each
    return callbacks


class Telling:
    """The callbacks of a run under way.

    Args:
        callbacks: by name.
        folder: of the run; None for one in memory.
        reporter: told of a callback that failed.
    """

    def __init__(self, callbacks: Mapping[str, Callback], folder: Path | None, reporter: Reporter) -> None:
        self._told = [_Told(name, each, folder, reporter) for name, each in callbacks.items()]

    def __bool__(self) -> bool:
        return bool(self._told)

    def start(self, run: Mapping[str, Any], protocol: Protocol, folder: Path | None) -> None:
        """The run begins or goes on.

        Args:
            run: content of its run.json.
            protocol: of it.
            folder: of it.
        """
        for told in self._told:
            told.begin(run, protocol, folder)

    def epochs(self, rows: Sequence[EpochRow]) -> None:
        """Members have trained for these epochs: all that each has behind it, or those since this was last called."""
        by_place: dict[Place, list[EpochRow]] = {}
        for row in rows:
            by_place.setdefault(_place(row), []).append(row)
        for told, place in itertools.product(self._told, sorted(by_place)):
            told.epochs(place, by_place[place])

    def finished(self, rows: Rows) -> None:
        """Members are done; of their epochs those are told that were not."""
        if self._told:
            self.epochs(epoch_rows(rows.history, rows.metrics))
        for told in self._told:
            told.table(rows.table)

    def end(self, status: str) -> None:
        """The run ends."""
        for told in self._told:
            told.end(status)

    def close(self) -> None:
        """Nothing more is told; may be called twice."""
        for told in self._told:
            told.close()


class _Told:
    """A callback, and how far it was told."""

    def __init__(self, name: str, callback: Callback, folder: Path | None, reporter: Reporter) -> None:
        self.name, self.callback, self.reporter = name, callback, reporter
        self.path = None if folder is None else folder / FOLDER / f"{_file_name(name)}.jsonl"
        self.file: TextIO | None = None
        self.places: dict[Who, Place] = {}
        self.works = self.started = False

    def begin(self, run: Mapping[str, Any], protocol: Protocol, folder: Path | None) -> None:
        """Read how far it was told, and tell it of the run."""
        resumed, number = False, os.urandom(8).hex()
        if self.path is not None:
            known, self.places = _read(self.path)
            resumed, number = known is not None, known or number
        info = RunInfo(
            id=number,
            name=str(protocol.dataset) if folder is None else "/".join(folder.resolve().parts[-2:]),
            folder=folder,
            protocol=run["protocol"],
            protocol_hash=str(run["protocol_hash"]),
            version=str(run["version"]),
            members=len(protocol.pairs) * len(protocol.seeds),
            resumed=resumed,
        )
        self.works = self.started = True

        def start() -> None:
            self._open(number)
            self.callback.run_started(info)

        self._tell(start)

    def epochs(self, place: Place, rows: Sequence[EpochRow]) -> None:
        new = [row for row in rows if place > self._known((row.hidden_layers, row.variant, row.seed))]
        if new:
            who = [(row.hidden_layers, row.variant, row.seed) for row in new]
            self._tell(lambda: self.callback.epochs(new), who, place)

    def table(self, rows: Sequence[Row]) -> None:
        every: list[tuple[Any, Row]] = [((row["hidden_layers"], row["variant"], row["seed"]), row) for row in rows]
        new = [(who, row) for who, row in every if self._known(who) < DONE]
        if new:
            self._tell(lambda: self.callback.members_finished([row for _, row in new]), [who for who, _ in new], DONE)

    def end(self, status: str) -> None:
        if self.started:
            self._tell(lambda: self.callback.run_ended(status))
            self.works = self.started = False

    def close(self) -> None:
        """Close its record."""
        if self.file is not None:
            with suppress(OSError):
                self.file.close()

    def _known(self, who: Who) -> Place:
        return self.places.get(who, (-1, 0))

    def _tell(self, what: Callable[[], None], members: Sequence[Who] = (), place: Place = DONE) -> None:
        """Tell it something, and note that it knows; if it fails, it is told nothing more."""
        if not self.works:
            return
        try:
            what()
            if members and self.file is not None:
                self.file.write(f"{json.dumps([place, members])}\n")
                self.file.flush()
        except Exception as error:
            self.works = False
            text = " ".join(str(error).split())[:200] or "no reason given"
            self.reporter.note(
                f"log: {self.name} failed ({type(error).__name__}: {text}) and is told nothing more; the run goes on"
            )
            return
        self.places.update(dict.fromkeys(members, place))

    def _open(self, number: str) -> None:
        """Begin its record anew, with what it knows: what a killed process left half written is gone then."""
        if self.path is None:
            return
        by_place: dict[Place, list[Who]] = {}
        for who, place in self.places.items():
            by_place.setdefault(place, []).append(who)
        lines = [json.dumps(number), *(json.dumps(pair) for pair in by_place.items())]
        self.path.parent.mkdir(exist_ok=True)
        write_file(self.path, ["".join(f"{line}\n" for line in lines).encode()])
        self.file = self.path.open("a", encoding="utf-8")


def _file_name(name: str) -> str:
    """A callback's name as a file may be called."""
    short = re.sub(r"[^\w-]", "_", name)[:60]
    return short if short == name else f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _place(row: EpochRow) -> Place:
    return STAGES.index(row.phase), row.epoch


def _read(path: Path) -> tuple[str | None, dict[Who, Place]]:
    """The number of a run, None where nothing was told of it, and how far it was told of each member."""
    with suppress(OSError, ValueError, TypeError):
        number, *lines = read_regular(path, MAX_BYTES).decode().split("\n")
        known = str(json.loads(number))
        places: dict[Who, Place] = {}
        with suppress(ValueError, TypeError):  # the last line of a process that was killed
            for line in filter(None, lines):
                (stage, epoch), members = json.loads(line)
                places |= dict.fromkeys(map(tuple, members), (stage, epoch))
        return known, places
    return None, {}
