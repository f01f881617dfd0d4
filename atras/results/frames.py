"""The frames of a run as files: Parquet that carries its own checksum, and CSV."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from atras.errors import InputError
from atras.storage import BLANK, check_checksum, near_misses, read_regular, with_checksum

from .schemas import COMPUTED, OPTIONAL, PYTHON_TYPES, SCHEMAS, STATUSES, dtypes

MAX_PARQUET_BYTES = 2**30
"""Largest frame that is read, and written."""

MAX_ROWS = 10_000_000
"""Most rows of a frame that is read: a small file can declare any number of equal ones."""

_KEY = "atras.sha256"
_MARK = _KEY.encode() + b"\x18@"
"""The key as Parquet's footer has it: then the type of the value, a text of 64 bytes."""

_ARRAYS: dict[type[pl.DataType], str] = {pl.Boolean: "?", pl.UInt32: "<u4", pl.Float32: "<f4", pl.Float64: "<f8"}
"""Types of the numbers in bytes that stand for a column of many rows."""

_NEVER_NULL = (
    "dataset", "hidden_layers", "variant", "depth", "parameters", "seed", "status", "phase", "split", "n",
)  # fmt: skip


NORMAL_95 = 1.959963984540054
"""Normal quantile of a two-sided interval of 95 %."""


def wilson(correct: int, n: int, z: float = NORMAL_95) -> tuple[float, float] | tuple[None, None]:
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


def empty(name: str, axes: Mapping[str, type[pl.DataType]] = MappingProxyType({})) -> pl.DataFrame:
    """A frame of SCHEMAS without rows, with columns for a run's axes."""
    return pl.DataFrame(schema=dtypes(name, axes))


def frame_of(name: str, rows: list[dict[str, object]]) -> pl.DataFrame:
    """A frame of SCHEMAS from its rows, with accuracy and interval added where it has them.

    A row of `outcomes` stands for as many rows as its bytes hold numbers.

    Raises:
        InputError: if a row does not fit.
    """
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
    if name == "outcomes":
        return _unpacked(rows) if rows else empty(name)
    if computed:
        rows = [{**row, **_interval(row)} for row in rows]
    return pl.DataFrame(rows, schema=dtypes(name))


def _unpacked(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """The rows of `outcomes` that each of these stands for, a column at a time."""
    types = dtypes("outcomes")
    lengths = []
    columns: dict[str, list[Any]] = {name: [] for name in types}
    for row in rows:
        found = {
            name: _values(value, types[name]) if isinstance(value, bytes) else value for name, value in row.items()
        }
        counts = {len(values) for values in found.values() if isinstance(values, pl.Series)}
        if len(counts) != 1:
            raise InputError("outcomes: expected as many numbers in one column as in another; give one an image")
        lengths.append(counts.pop())
        for name, parts in columns.items():
            parts.append(found[name])
    places = np.repeat(np.arange(len(rows)), lengths)
    return pl.DataFrame([
        pl.concat([part if isinstance(part, pl.Series) else pl.repeat(part, count, dtype=dtype, eager=True)
                   for part, count in zip(columns[name], lengths, strict=True)]).rechunk().alias(name)
        if any(isinstance(part, pl.Series) for part in columns[name])
        else pl.Series(name, columns[name], dtype=dtype).gather(places)
        for name, dtype in types.items()
    ])  # fmt: skip


def _values(content: bytes, dtype: type[pl.DataType]) -> pl.Series:
    """A column of numbers from their bytes, or of text from its lines, where an empty one is null."""
    if dtype == pl.String:
        return pl.Series(content.decode().split("\n"), dtype=dtype).replace("", None)
    return pl.Series(np.frombuffer(content, _ARRAYS[dtype]), dtype=dtype)


def _check_value(frame: str, column: str, value: object) -> None:
    dtype = SCHEMAS[frame][column].dtype
    if frame == "outcomes" and isinstance(value, bytes) and (dtype in _ARRAYS or column == "part"):
        return
    # Polars would cast 0.5 to 0 and True to 1 without a word.
    fits = isinstance(value, PYTHON_TYPES[dtype]) and isinstance(value, bool) == (dtype == pl.Boolean)
    if value is not None and not fits:
        raise InputError(f"{frame}: {column} (={value!r}): expected {dtype.__name__} or None; convert it first")


def _interval(row: Mapping[str, object]) -> dict[str, float | None]:
    correct, n = row["correct"], row["n"]
    if not isinstance(correct, int) or not isinstance(n, int) or n == 0:
        return dict.fromkeys(COMPUTED)
    return dict(zip(COMPUTED, (correct / n, *wilson(correct, n)), strict=True))


def parquet(frame: pl.DataFrame, group_rows: int | None = None) -> bytes:
    """A frame as a Parquet file, with its checksum among its metadata.

    Args:
        frame: any.
        group_rows: rows of a row group, which can be read by itself; None to leave that to the size.

    Raises:
        InputError: if it has more rows or bytes than `read_frame` takes.
    """
    check_rows(frame.height)
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata={_KEY: BLANK}, row_group_size=group_rows)
    if (size := buffer.tell()) > MAX_PARQUET_BYTES:
        raise InputError(
            f"frame: expected at most {MAX_PARQUET_BYTES} bytes, which can be read back, got {size}; split the "
            "candidates or seeds over runs"
        )
    return b"".join(with_checksum(_MARK, buffer.getvalue()))


def check_rows(count: int, frame: str = "frame") -> None:
    """Refuse more rows than can be read back.

    Raises:
        InputError: if there are, or will be.
    """
    if count > MAX_ROWS:
        raise InputError(
            f"{frame}: expected at most {MAX_ROWS} rows, which can be read back, got {count}; split the candidates or "
            "seeds over runs"
        )


def csv(frame: pl.DataFrame) -> bytes:
    """A frame as CSV, in which no text is a formula."""
    # A path may begin with a sign that a spreadsheet takes for a formula. Numbers keep their minus.
    harmless = pl.col(pl.String).str.replace(r"^([=+\-@\t\r\n])", "'${1}")
    return frame.with_columns(harmless).write_csv().encode()


def read_frame(
    path: Path, name: str, missing: bool, axes: Mapping[str, type[pl.DataType]] = MappingProxyType({})
) -> pl.DataFrame:
    """Read a frame.

    Args:
        path: the file.
        name: in SCHEMAS.
        missing: take a file that is not there for an empty frame; those of OPTIONAL always are.
        axes: types of the columns of the run's axes.

    Raises:
        InputError: if the file is missing, damaged or not of this form.
    """
    if (missing or name in OPTIONAL) and not path.exists():
        return empty(name, axes)
    return frame_in(read_bytes(path, MAX_PARQUET_BYTES), path, name, axes)


def frame_in(
    content: bytes, path: Path, name: str, axes: Mapping[str, type[pl.DataType]] = MappingProxyType({})
) -> pl.DataFrame:
    """The frame that a Parquet file holds.

    Args:
        content: of the file.
        path: where it was found, for errors.
        name: in SCHEMAS.
        axes: types of the columns of the run's axes.

    Raises:
        InputError: if it is damaged or not of this form.
    """
    try:
        check_checksum(_MARK, content)
    except ValueError as error:
        raise foreign(path, "Parquet", error) from error
    # Only now: of a damaged file polars may abort the process.
    frame = _parsed(path, name, content, axes)
    holes = [column for column in _NEVER_NULL if column in frame.columns and frame[column].null_count()]
    if holes:
        raise InputError(f"{path}: expected a value in every row of {holes[0]}, found none in some; it is damaged")
    if "status" in frame.columns and not frame["status"].is_in(STATUSES).all():
        raise InputError(f"{path}: expected a status of {', '.join(STATUSES)}, found another one; it is damaged")
    return frame


def _parsed(path: Path, name: str, content: bytes, axes: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    # From bytes: given a path, polars would take * and [ in it for a pattern and key=value for a column.
    try:
        lazy = pl.scan_parquet(io.BytesIO(content))
        if lazy.collect_schema() != pl.Schema(dtypes(name, axes)):
            raise InputError(
                f"{path}: expected the columns of frame {name}, found others; read it with the atras that wrote it"
            )
        rows = lazy.select(pl.len()).collect().item()
        if rows > MAX_ROWS:
            raise InputError(f"{path}: expected at most {MAX_ROWS} rows, found {rows}; point to the folder of a run")
        return lazy.collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise foreign(path, "Parquet", error) from error


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file of a run, of at most so many bytes.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return read_regular(path, limit)
    except OSError as error:
        near = near_misses(path) if isinstance(error, FileNotFoundError) else ""
        raise InputError(
            f"{path}: expected a file of a run: {error.strerror or error}; point to the folder of a run{near}"
        ) from error


def foreign(path: Path, kind: str, error: BaseException) -> InputError:
    """The error for a file that no run wrote."""
    reason = str(error).partition("\n")[0]
    return InputError(
        f"{path}: expected {kind} as a run wrote it, found a damaged or foreign file ({reason}); restore it, or point "
        "to the folder of another run"
    )
