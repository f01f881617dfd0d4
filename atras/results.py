"""What a run leaves behind: its frames, and files that are whole at every moment."""

from __future__ import annotations

import contextlib
import html
import io
import json
import math
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from . import files
from .errors import InputError, printable
from .reading import read_regular
from .schemas import ACCURACIES, COMPUTED, OPTIONAL, PAPER_COLUMNS, PYTHON_TYPES, SCHEMAS, STATUSES, dtypes


def wilson(correct: int, n: int, z: float = 1.959963984540054) -> tuple[float, float] | tuple[None, None]:
    """Wilson's score interval of a share.

    Args:
        correct: successes, in [0, n].
        n: trials, at least 0.
        z: normal quantile; the default gives 95 %.

    Returns:
        (low, high), with 0 <= low <= correct / n <= high <= 1; (None, None) where there were no trials.

    Raises:
        InputError: if correct is not in [0, n].

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if not 0 <= correct <= n:
        raise InputError(f"correct (={correct}): expected a count from 0 to n (={n})")
    if n == 0:
        return None, None
    share = correct / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The ends are exact at 0 and n; rounding must not push them past the share.
    low = 0.0 if correct == 0 else min((centre - spread) / scale, share)
    high = 1.0 if correct == n else max((centre + spread) / scale, share)
    return low, high


_HEADLINES = ("attacked_accuracy_after_adaptive", "attacked_accuracy_after_static", "adversarial_test_accuracy")
"""Accuracies that a notebook shows."""


class Rows(typing.Protocol):
    """Rows of one group, by frame: each row a dict from column to value."""

    table: list[dict[str, object]]
    metrics: list[dict[str, object]]
    history: list[dict[str, object]]
    timings: list[dict[str, object]]
    transfer: list[dict[str, object]]
    examples: list[dict[str, object]]


@dataclass(frozen=True, repr=False, eq=False)
class Results:
    """The frames of a run.

    Args:
        table, metrics, history, timings: frames with the columns of `SCHEMAS`.
        run: content of run.json: protocol, protocol_hash, version, status, and what the orchestrator added.
        directory: where they lie; None for a run that was kept in memory.
        transfer, examples: frames likewise; empty where they were not asked for.
    """

    table: pl.DataFrame
    metrics: pl.DataFrame
    history: pl.DataFrame
    timings: pl.DataFrame
    run: dict[str, Any]
    directory: Path | None = None
    transfer: pl.DataFrame = field(default_factory=lambda: _empty("transfer"))
    examples: pl.DataFrame = field(default_factory=lambda: _empty("examples"))

    @property
    def dataset(self) -> str:
        """Name or path of the data set, as the protocol has it."""
        return str(self.run["protocol"]["dataset"])

    def candidate_means(self, *, trained_only: bool = False) -> pl.DataFrame:
        """A row a candidate: its accuracies averaged over seeds, in the order of the table.

        Args:
            trained_only: leave out members that died or diverged, and candidates of which none trained. Otherwise
                the mean is over all seeds that have a figure, and the status is that of the worst seed.

        Returns:
            Columns hidden_layers, depth, parameters, status, then every accuracy of the table.
        """
        table = self.table.filter(pl.col("status") == "trained") if trained_only else self.table
        status = pl.col("status")
        worst = (
            pl.when((status == "diverged").any())
            .then(pl.lit("diverged"))
            .when((status == "dead").any())
            .then(pl.lit("dead"))
            .otherwise(pl.lit("trained"))
        )
        first = [pl.col("depth").first(), pl.col("parameters").first(), worst.alias("status")]
        return table.group_by("hidden_layers", maintain_order=True).agg(*first, pl.col(ACCURACIES).mean())

    def paper_table(self) -> pl.DataFrame:
        """The run under the paper's column names, a row a candidate, averaged over seeds.

        Returns:
            The paper's seven columns in its order (attacked_accuracy_after is the static one), then
            attacked_accuracy_after_adaptive and status.
        """
        columns = [pl.col(ours).alias(paper) for paper, ours in PAPER_COLUMNS.items()]
        return self.candidate_means().select(*columns, "hidden_layers", "attacked_accuracy_after_adaptive", "status")

    def by_depth(self) -> pl.DataFrame:
        """A row a depth: every accuracy averaged over the members that trained.

        Returns:
            Columns depth, members, trained (how many of them did), then every accuracy of the table.
        """
        trained = pl.col("status") == "trained"
        counts = [pl.len().cast(pl.Int64).alias("members"), trained.sum().cast(pl.Int64).alias("trained")]
        return self.table.group_by("depth").agg(*counts, pl.col(ACCURACIES).filter(trained).mean()).sort("depth")

    def members(self, status: str) -> list[tuple[str, int]]:
        """Hidden layers and seed of every member with a status, in the order of the table."""
        return self.table.filter(pl.col("status") == status).select("hidden_layers", "seed").rows()

    def __repr__(self) -> str:
        statuses = self.table["status"].to_list()
        counts = [f"{statuses.count(status)} {status}" for status in STATUSES if status in statuses]
        members = ", ".join(counts) or "no members yet"
        where = f", directory={str(self.directory)!r}" if self.directory else ""
        return f"Results({self.dataset!r}, {printable(str(self.run.get('status', 'unknown')))}: {members}{where})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the line of `repr` and a row a candidate, the most robust first."""
        shown = ["hidden_layers", "parameters", "status", *_HEADLINES]
        means = self.candidate_means().sort(_HEADLINES[0], descending=True, nulls_last=True).select(shown)
        with pl.Config(
            tbl_rows=20, tbl_cols=-1, float_precision=4, fmt_str_lengths=60, tbl_hide_column_data_types=True
        ):
            return f"<p>{html.escape(repr(self))}</p>{means._repr_html_()}"


class Writer:
    """Collects a run's rows and keeps its files whole, in a folder that is locked until `close`.

    Args:
        directory: folder for the files, made if need be; None keeps the frames in memory only.
        run_info: JSON values for run.json: at least protocol (with dataset, candidates, seeds), protocol_hash, version.

    Raises:
        InputError: if the folder holds a run already, is another's, or cannot be written.
    """

    _lock: files.Lock | None

    def __init__(self, directory: str | Path | None, run_info: Mapping[str, Any]) -> None:
        self._begin(None if directory is None else Path(directory), {**run_info, "status": "running"}, None)
        text = self._run_json()
        if self.directory is None:
            return
        self._lock = _claim(self.directory)
        try:
            self._write_run(text)
            self._write_frames(name for name in SCHEMAS if name not in OPTIONAL)
        except BaseException:
            # Nothing was here before: leave the folder free for the next attempt.
            for name in _FILES:
                with contextlib.suppress(OSError):
                    (self.directory / name).unlink()
            self.close()
            raise

    @classmethod
    def reopen(cls, directory: Path, lock: files.Lock, members: Collection[tuple[str, int]], groups: int) -> Writer:
        """Go on with a run's folder.

        Args:
            directory: with a run.json.
            lock: on it.
            members: hidden layers and seed of those that are finished: rows of others are dropped.
            groups: how many are finished.

        Raises:
            InputError: if a file is damaged.
        """
        files.remove_partials(directory, *(path for path in directory.iterdir() if path.is_dir()))
        # Killed at its very start, a run has no frames yet.
        found = read(directory, missing=not groups)
        writer = cls.__new__(cls)
        writer._begin(directory, found.run, lock)
        done = pl.DataFrame(list(members), schema={"hidden_layers": pl.String, "seed": pl.Int64}, orient="row")
        for name in SCHEMAS:
            frame = getattr(found, name)
            if "hidden_layers" in frame.columns:
                frame = frame.join(done, on=["hidden_layers", "seed"], how="semi", maintain_order="left")
            writer._frames[name] = frame.filter(pl.col("group") < groups) if name == "timings" else frame
        # It is made of all members at the very end.
        writer._frames["transfer"] = _empty("transfer")
        writer._write_frames(name for name in SCHEMAS if name not in OPTIONAL)
        return writer

    def _begin(self, directory: Path | None, run: dict[str, Any], lock: files.Lock | None) -> None:
        self.directory, self.run = directory, run
        self._lock = lock
        _check_run(run, "run_info")
        protocol = run["protocol"]
        self._order = {
            "hidden_layers": {name: index for index, name in enumerate(protocol["candidates"])},
            "seed": {seed: index for index, seed in enumerate(protocol["seeds"])},
        }
        self._frames = {name: _empty(name) for name in SCHEMAS}

    def table(self) -> list[dict[str, object]]:
        """Rows of the table so far."""
        return self._frames["table"].to_dicts()

    def append(self, rows: Rows) -> None:
        """Add a group's rows, put them in the order of candidates, then seeds, and write the files anew.

        Raises:
            InputError: if a row does not fit its schema, or a file cannot be written; files then keep their content.
        """
        new = {name: _frame(name, getattr(rows, name)) for name in SCHEMAS}
        self._frames |= {name: self._ordered(self._frames[name].vstack(frame)) for name, frame in new.items()}
        self._write_frames(name for name, frame in new.items() if len(frame))

    def update(self, run_info: Mapping[str, Any]) -> None:
        """Write run.json with values that replace or join those it has.

        Raises:
            InputError: if run.json cannot be written.
        """
        self.run |= run_info
        self._write_run(self._run_json())

    def close(self) -> None:
        """Let others write to the folder; may be called twice."""
        if self._lock is not None:
            self._lock.release()

    def finish(self, run_info: Mapping[str, Any]) -> Results:
        """Write run.json for the last time, with status "finished", and let go of the folder.

        Args:
            run_info: JSON values that replace or join those given at the start, such as timings.

        Raises:
            InputError: if run.json cannot be written.
        """
        self.run |= {**run_info, "status": "finished"}
        text = self._run_json()
        self._write_run(text)
        self.close()
        # From the text, as it will be read back: tuples have become lists.
        return Results(**self._frames, run=json.loads(text), directory=self.directory)

    def _ordered(self, frame: pl.DataFrame) -> pl.DataFrame:
        # Groups finish in an order of their own; the files must not depend on it.
        if "hidden_layers" not in frame.columns:
            return frame.rechunk()
        keys = []
        for column, order in self._order.items():
            strange = set(frame[column].unique()) - order.keys()
            if strange:
                raise InputError(
                    f"{column} (={strange.pop()!r}): expected one of the protocol's; use its own candidates and seeds"
                )
            keys.append(pl.col(column).replace_strict(order, return_dtype=pl.Int64))
        return frame.sort(keys, maintain_order=True).rechunk()

    def _write_frames(self, names: typing.Iterable[str]) -> None:
        if self.directory is None:
            return
        for name in names:
            files.write(self.directory / f"{name}.parquet", [_parquet(self._frames[name])])
            if name == "table":
                files.write(self.directory / "table.csv", [_csv(self._frames[name])])

    def _write_run(self, text: str) -> None:
        if self.directory is not None:
            files.write(self.directory / "run.json", [text.encode() + b"\n"])

    def _run_json(self) -> str:
        try:
            return json.dumps(self.run, indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"run_info: expected JSON values, got something else ({error}); convert it first"
            ) from error


MAX_JSON_BYTES = 2**26
MAX_PARQUET_BYTES = 2**30
"""Largest files of a run that are read."""

MAX_ROWS = 10_000_000
"""Most rows of a frame that is read: a small file can declare any number of equal ones."""


def read(directory: str | Path, *, missing: bool = False) -> Results:
    """Read a run's folder, finished or not.

    Args:
        directory: the folder.
        missing: take frames that are not there for empty ones.

    Raises:
        InputError: if a file is missing, damaged or not of this form.
    """
    folder = Path(directory)
    content = _bytes(folder / "run.json", MAX_JSON_BYTES)
    try:
        run = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _foreign(folder / "run.json", "JSON", error) from error
    _check_run(run, str(folder / "run.json"))
    return Results(
        **{name: _read_frame(folder / f"{name}.parquet", name, missing) for name in SCHEMAS}, run=run, directory=folder
    )


def _empty(name: str) -> pl.DataFrame:
    return pl.DataFrame(schema=dtypes(name))


def _frame(name: str, rows: list[dict[str, object]]) -> pl.DataFrame:
    schema = SCHEMAS[name]
    computed = COMPUTED if COMPUTED[-1] in schema else ()
    given = [column for column in schema if column not in computed]
    for row in rows:
        if set(row) != set(given):
            odd = ", ".join(sorted(set(row) ^ set(given)))
            raise InputError(
                f"{name}: expected rows with exactly the columns of SCHEMAS, missing or unknown: {odd}; give these"
            )
        for column in given:
            _check_value(name, column, row[column])
    if computed:
        rows = [{**row, **_interval(row)} for row in rows]
    return pl.DataFrame(rows, schema=dtypes(name))


def _check_value(frame: str, column: str, value: object) -> None:
    dtype = SCHEMAS[frame][column].dtype
    # Polars would cast 0.5 to 0 and True to 1 without a word.
    if value is not None and (isinstance(value, bool) or not isinstance(value, PYTHON_TYPES[dtype])):
        raise InputError(f"{frame}: {column} (={value!r}): expected {dtype.__name__} or None; convert it first")


def _interval(row: Mapping[str, object]) -> dict[str, float | None]:
    correct, n = row["correct"], row["n"]
    if not isinstance(correct, int) or not isinstance(n, int) or n == 0:
        return dict.fromkeys(COMPUTED)
    return dict(zip(COMPUTED, (correct / n, *wilson(correct, n)), strict=True))


def _check_run(run: object, where: str) -> None:
    """Refuse what is not the content of run.json, as far as this module needs it."""
    content = _object(run)
    protocol = _object(content.get("protocol"))
    fits = {
        "protocol_hash": isinstance(content.get("protocol_hash"), str),
        "version": isinstance(content.get("version"), str),
        "protocol.dataset": isinstance(protocol.get("dataset"), str),
        "protocol.candidates": _is_list(protocol.get("candidates"), str),
        "protocol.seeds": _is_list(protocol.get("seeds"), int),
    }
    wrong = [name for name, fit in fits.items() if not fit]
    if wrong:
        raise InputError(f"{where}: expected {', '.join(wrong)} as a run writes it; point to the folder of a run")
    try:
        protocol["dataset"].encode()
    except UnicodeEncodeError as error:
        # Polars takes only UTF-8; better now than after the first group has trained.
        raise InputError(f"dataset (={protocol['dataset']!r}): expected a name in UTF-8; rename the file") from error


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


_FILES = ("run.json", "table.csv", *(f"{name}.parquet" for name in SCHEMAS))


def _claim(folder: Path) -> files.Lock:
    """Make the folder if need be, and take it, if it holds no run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = files.Lock(folder)
        there = [name for name in _FILES if (folder / name).exists()]
    except OSError as error:
        raise InputError(
            f"out (={str(folder)!r}): expected a folder to write to: {error.strerror or error}; name another folder"
        ) from error
    if there:
        lock.release()
        raise InputError(
            f"out (={str(folder)!r}): expected a folder without a run, found {there[0]}; name another folder, or go on "
            "with it by --resume"
        )
    files.remove_partials(folder)
    return lock


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _csv(frame: pl.DataFrame) -> bytes:
    # A path may begin with a sign that a spreadsheet takes for a formula. Numbers keep their minus.
    harmless = pl.col(pl.String).str.replace(r"^([=+\-@\t\r\n])", "'${1}")
    return frame.with_columns(harmless).write_csv().encode()


def _read_frame(path: Path, name: str, missing: bool) -> pl.DataFrame:
    # From bytes: given a path, polars would take * and [ in it for a pattern and key=value for a column.
    if (missing or name in OPTIONAL) and not path.exists():
        return _empty(name)
    content = _bytes(path, MAX_PARQUET_BYTES)
    try:
        lazy = pl.scan_parquet(io.BytesIO(content))
        if lazy.collect_schema() != pl.Schema(dtypes(name)):
            raise InputError(
                f"{path}: expected the columns of frame {name}, found others; read it with the atras that wrote it"
            )
        rows = lazy.select(pl.len()).collect().item()
        if rows > MAX_ROWS:
            raise InputError(f"{path}: expected at most {MAX_ROWS} rows, found {rows}; point to the folder of a run")
        frame = lazy.collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise _foreign(path, "Parquet", error) from error
    empty = [column for column in _NEVER_NULL if column in frame.columns and frame[column].null_count()]
    if empty:
        raise InputError(f"{path}: expected a value in every row of {empty[0]}, found none in some; it is damaged")
    if "status" in frame.columns and not frame["status"].is_in(STATUSES).all():
        raise InputError(f"{path}: expected a status of {', '.join(STATUSES)}, found another one; it is damaged")
    return frame


_NEVER_NULL = ("dataset", "hidden_layers", "depth", "parameters", "seed", "status", "phase", "split", "n")


def _bytes(path: Path, limit: int) -> bytes:
    try:
        return read_regular(path, limit)
    except OSError as error:
        raise InputError(
            f"{path}: expected a file of a run: {error.strerror or error}; point to the folder of a run"
        ) from error


def _foreign(path: Path, kind: str, error: BaseException) -> InputError:
    reason = str(error).partition("\n")[0]
    return InputError(
        f"{path}: expected {kind}, found a damaged or foreign file ({reason}); point to the folder of a run"
    )
