"""Successive halving: many candidates for a few epochs, the better part of them for more, the last ones in full. With
axes it is candidates in variants that are dropped.

What is dropped is decided on images held out of the training set, never on the test set: each round but the last trains
on 80 % of the training images and is attacked on the rest, in which every class has its share. The last round is the
protocol itself, on all training images and the test set, so its figures are as honest as those of any run.

Every round is an ordinary run in a folder of its own, planned anew, so that groups are full whatever was dropped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atras import running
from atras.analysis import RANK_BY, ordered
from atras.checks import one_of
from atras.errors import InputError, Interrupted
from atras.experiment import Execution, Loaded, Protocol
from atras.loggers import LOGGERS
from atras.results import Results, read
from atras.rounding import counted
from atras.running import Reporter
from atras.storage import (
    LOCK,
    Lock,
    expanded,
    is_file,
    remove_partials,
    scratch_folder,
    take_folder,
    unwritable,
    write_file,
)

from .confirmation import confirm
from .halving import SUMMARY, Record, Round, counted_candidates
from .holdout import SELECTION, HeldOut, hold_out, restore, round_data

UNCLEAR = "clearly better than always answering one class: their order says little; more epochs or images may help"
"""What is true of no candidate of a round whose networks tell classes no better apart than one answer does."""


def search(
    protocol: Protocol,
    execution: Execution,
    budget: int,
    out: str | Path | None = None,
    *,
    rank_by: str = "accuracy",
    confirm_seeds: Sequence[int] = (),
    reporter: Callable[[], Reporter] = Reporter,
    stop: running.Stop | None = None,
) -> Results:
    """Successive halving over the protocol's candidates.

    Args:
        protocol: the whole space, and how the last round trains.
        execution: where and how.
        budget: candidate-epochs, as in `plan_rounds`.
        out: new folder: round-1, round-2, ... are runs; search.json says what was kept and why. None for one that is
            gone when the search ends.
        rank_by: `accuracy`, or `balanced` for its mean over classes.
        confirm_seeds: fresh ones, on which the winner is measured when the search is done, beyond the budget.
        reporter: makes the reporter of a round.
        stop: asked about once a second whether to stop.

    Returns:
        The last round's results.

    Raises:
        InputError: as `plan_rounds` and `running.run`; if `rank_by` is something else, or the folder is in use.
        Interrupted: if `stop` said so; `resume` goes on with what is in `out`.
    """
    if out is None:
        _check_logs(execution)
        with tempfile.TemporaryDirectory(prefix="atras-", dir=scratch_folder()) as made:
            asked: Any = {"rank_by": rank_by, "confirm_seeds": confirm_seeds, "reporter": reporter, "stop": stop}
            results = search(protocol, execution, budget, Path(made) / "search", **asked)
            return dataclasses.replace(results, directory=None)
    folder = expanded(out)
    one_of("rank_by", rank_by, RANK_BY)
    if confirm_seeds:
        running.check_fresh(protocol, confirm_seeds, folder)
    record = Record.new(folder, protocol, execution, budget, rank_by)
    record.content["confirm_seeds"] = list(confirm_seeds)
    place = running.DataPlace.of(protocol, execution)
    with contextlib.closing(reporter()) as told:
        selection = hold_out(record, place, told.decoding) if len(record.parts) > 1 else None
    record.content["data_places"] = place.remembered(folder)
    lock = _claim(folder)
    try:
        record.write("running")
        if selection is not None:
            write_file(folder / SELECTION, [selection])
        # It is as large as the data set, which every round loads for itself.
        del selection
        return _Search(record, execution, reporter, stop, place).go()
    except InputError as error:
        if record.round_folder(1).joinpath("run.json").exists():
            raise _with_advice(error, folder) from error
        _forget(record)
        raise
    finally:
        lock.release()


def resume(
    directory: str | Path,
    protocol: Protocol | None = None,
    execution: Execution | None = None,
    *,
    confirm_seeds: Sequence[int] = (),
    reporter: Callable[[], Reporter] = Reporter,
    stop: running.Stop | None = None,
    take_over: bool = False,
) -> Results:
    """Go on with a search that was killed, interrupted or failed. Finished rounds are not computed again.

    On the same machine the result is bitwise that of a search that was never interrupted.

    Args:
        directory: the search's folder.
        protocol: None for the recorded one; another is refused, but for its precision (what is left trains in that) and
            for a path of the data where the same ones are.
        execution: None for the recorded one.
        confirm_seeds: as `search`; none for those that the search was begun with. A finished search takes them too.
        reporter, stop: as `search`.
        take_over: as `running.resume`, also of the round under way.

    Returns:
        The last round's results; those of a search that is finished already as they are.

    Raises:
        InputError: if the folder holds no search, is another's at the moment, or holds a damaged file; if the protocol
            or the data differ; and as `search`.
        Interrupted: as `search`.
    """
    folder = expanded(directory)
    record = Record.read(folder)
    running.check_same(record.protocol, protocol)
    if record.content["status"] == "finished" and (not confirm_seeds or record.content.get("confirmed")):
        progress = reporter()
        progress.note(f"{folder}: this search is finished already")
        progress.close()
        return read(record.round_folder(len(record.parts)))
    lock = Lock(folder, take_over=take_over)
    try:
        remove_partials(folder)
        # Once more: until the lock was taken another process may have been at work.
        record = Record.read(folder)
        execution = execution or record.execution
        with contextlib.closing(reporter()) as told:
            place = restore(record, running.DataPlace.of(protocol or record.protocol, execution), told.decoding)
        record.content["data_places"] = place.remembered(folder, record.content.get("data_places"))
        if confirm_seeds:
            record.content["confirm_seeds"] = list(confirm_seeds)
        record.write("running")
        own = record.protocol.precision
        wish = None if protocol is None or protocol.precision == own else protocol.precision
        return _Search(record, execution, reporter, stop, place, wish, take_over).go()
    except InputError as error:
        raise _with_advice(error, folder) from error
    finally:
        lock.release()


def is_search(directory: str | Path) -> bool:
    """Whether a folder holds a search."""
    return is_file(expanded(directory) / SUMMARY)


def recorded(directory: str | Path) -> Loaded:
    """The record in a search's folder, for `resume`.

    Raises:
        InputError: if its search.json is damaged, or of another version of atras.
    """
    record = Record.read(expanded(directory))
    return Loaded(dict(vars(record.protocol)), dict(vars(record.execution)))


def rank_by_of(directory: str | Path) -> str:
    """What the search in a folder ranks by.

    Raises:
        InputError: as `recorded`.
    """
    return str(Record.read(Path(directory)).content["rank_by"])


class FinishedRound(NamedTuple):
    """A round that is done.

    Args:
        number: from 1.
        folder: of its run.
        plan: candidates, epochs and cost.
        ranking: names of its candidates from best to worst.
        kept: how many of them, the first, went on; in the last round all that it has.
        held_out: whether it was ranked on images held out of the training set, and not on the test images.
    """

    number: int
    folder: Path
    plan: Round
    ranking: tuple[str, ...]
    kept: int
    held_out: bool


def finished_rounds(directory: str | Path) -> tuple[list[FinishedRound], dict[str, Any]]:
    """The rounds of a search that are done, and what its record says of it.

    Returns:
        The rounds in order; and of the record `status`, `budget`, `spent`, `rank_by`, `rounds` (how many there are to
        be), `train_share` and `warnings`.

    Raises:
        InputError: as `recorded`.
    """
    record = Record.read(expanded(directory))
    every = len(record.parts)
    done = [
        FinishedRound(
            number,
            record.round_folder(number),
            record.parts[number - 1],
            tuple(entry["ranking"]),
            record.parts[number].candidates if number < every else record.parts[number - 1].candidates,
            number < every,
        )
        for number, entry in enumerate(record.content["rounds"], start=1)
    ]
    told = {name: record.content[name] for name in ("status", "budget", "spent", "rank_by", "train_share", "warnings")}
    return done, {**told, "rounds": every}


def last_round(directory: str | Path) -> tuple[Path, str]:
    """The folder of a search's last finished round, and a line that says which it is.

    Raises:
        InputError: as `recorded`, or if no round is finished.
    """
    record = Record.read(expanded(directory))
    done, every = len(record.content["rounds"]), len(record.parts)
    if not done:
        raise InputError(f"{directory}: expected a search with a finished round, got none; go on with --resume")
    left = "" if done == every else ", on images held out of the training set; the search is not finished"
    what = counted_candidates(record.protocol, record.parts[done - 1].candidates)
    return record.round_folder(done), f"{directory} is a search: this is round {done} of {every}, {what}{left}"


class _Search:
    """One process at work on a search."""

    def __init__(
        self,
        record: Record,
        execution: Execution,
        reporter: Callable[[], Reporter],
        stop: running.Stop | None,
        place: running.DataPlace,
        wish: str | None = None,
        take_over: bool = False,
    ) -> None:
        self.record, self.execution, self.reporter, self.stop = record, execution, reporter, stop
        self.place, self.take_over = place, take_over
        self.wish = wish  # another precision than the record's, for what is left
        self.executor = running.executor_for(execution)

    def go(self) -> Results:
        """All rounds that are left."""
        try:
            last = len(self.record.parts)
            for number in range(self.record.begin(), last + 1):
                results = self.compute(number)
                self.follow(results)
                ranked = ordered(results, rank_by=self.record.content["rank_by"])
                if not ranked["clear"].sum():
                    self.note(f"round {number}: no candidate is {UNCLEAR}")
                self.record.add(number, ranked["hidden_layers"].to_list())
                if number < last:
                    self.record.write("running")
            if seeds := self.record.content.get("confirm_seeds"):
                results = self.confirm(results, seeds)
            self.record.write("finished")
            return results
        except (Interrupted, KeyboardInterrupt):
            self.leave("interrupted")
            raise
        except BaseException:
            self.leave("failed")
            raise
        finally:
            self.executor.close()

    def confirm(self, results: Results, seeds: Sequence[int]) -> Results:
        """The last round, with its winner measured on fresh seeds."""
        with contextlib.closing(self.reporter()) as reporter:
            arguments: Any = {"reporter": reporter, "stop": self.stop, "place": self.place, "executor": self.executor}
            found = confirm(results, seeds, self.execution, rank_by=self.record.content["rank_by"], **arguments)
        self.record.content["confirmed"] = found.run.get("confirmed")
        return found

    def note(self, line: str) -> None:
        """Tell of something between two rounds."""
        reporter = self.reporter()
        reporter.note(line)
        reporter.close()

    def follow(self, results: Results) -> None:
        """Have later rounds train in the precision that a round had to go on in, where that is not the one asked."""
        taken = results.run["plan"]["precision"]
        if self.record.protocol.precision not in ("auto", taken):
            self.wish = taken

    def compute(self, number: int) -> Results:
        """A round, from where it stands."""
        protocol, folder = self.protocol(number), self.record.round_folder(number)
        parts = self.record.parts
        part, reporter = parts[number - 1], self.reporter()
        try:
            for line in self.record.content["warnings"] if number == 1 else ():
                reporter.note(line)
            what = counted_candidates(protocol, part.candidates)
            reporter.note(f"round {number} of {len(parts)}: {what}, {counted(part.epochs, 'epoch')}")
            place = self.place if number == len(parts) else HeldOut.of(protocol, self.execution)
            arguments: Any = {"reporter": reporter, "stop": self.stop, "place": place, "executor": self.executor}
            if not (folder / "run.json").exists():
                return running.run(protocol, self.execution, out=folder, **arguments)
            recorded = Protocol(**running.recorded(folder).protocol_fields)
            running.check_same(recorded, protocol, f"{folder} is no round of this search")
            asked = recorded.replace(precision=self.wish) if self.wish else None
            return running.resume(folder, asked, self.execution, take_over=self.take_over, **arguments)
        finally:
            reporter.close()

    def protocol(self, number: int) -> Protocol:
        """A round's: the last one's is the search's own, but for its candidates."""
        record = self.record
        precision = self.wish or record.protocol.precision
        changes: dict[str, Any] = {"precision": precision}
        if number < len(record.parts):
            part = record.parts[number - 1]
            changes |= round_data(record.folder)
            changes |= {"epochs": part.epochs, "adversarial_epochs": part.adversarial_epochs}
        return record.protocol.narrowed(record.names(number), **changes)

    def leave(self, status: str) -> None:
        """Say in search.json how the search ended, if it can be written."""
        with contextlib.suppress(InputError):
            self.record.write(status)


def _check_logs(execution: Execution) -> None:
    """Refuse loggers whose files would be gone with a search's folder."""
    for spelling in execution.log:
        if LOGGERS.parse(spelling).in_run_folder:
            raise InputError(
                f"log (={spelling}): expected a folder, got a search without one, with which what it writes would be "
                "gone; search with out"
            )


def _with_advice(error: InputError, folder: Path) -> InputError:
    # What a round says goes on with the round alone.
    return InputError(f"{error}; the search goes on with --resume {folder}")


def _claim(folder: Path) -> Lock:
    """Make the folder if need be, and take it, if it is empty."""
    lock = take_folder(folder)
    try:
        # What one that was killed at its very start left is taken over.
        there = sorted(path.name for path in folder.iterdir() if not path.name.startswith((LOCK, f".{SUMMARY}")))
    except OSError as error:
        lock.release()
        raise unwritable(folder, error) from error
    if there:
        lock.release()
        more = ", or go on with it by --resume" if SUMMARY in there else ""
        raise InputError(
            f"out (={str(folder)!r}): expected a new or empty folder for a search, found {there[0]}; name another{more}"
        )
    remove_partials(folder)
    return lock


def _forget(record: Record) -> None:
    """Leave the folder of a search that could not begin free for the next attempt."""
    for name in (SUMMARY, SELECTION):
        with contextlib.suppress(OSError):
            (record.folder / name).unlink()
    with contextlib.suppress(OSError):
        record.round_folder(1).rmdir()
