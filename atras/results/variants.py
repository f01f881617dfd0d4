"""The variants of a run as columns of its frames."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from atras.experiment import recorded_axes

from .schemas import dtypes

_TYPES: dict[type, type[pl.DataType]] = {float: pl.Float64, int: pl.Int64, str: pl.String}


def variants_of(protocol: Mapping[str, Any]) -> pl.DataFrame:
    """The variants of a run.

    Args:
        protocol: as run.json has it.

    Returns:
        A row a variant, in their order: column `variant`, which is empty in a run without axes, and one for each axis,
        null where its setting is none.

    Raises:
        InputError: if its axes are none.
    """
    rows = [{"variant": name, **values} for name, values in recorded_axes(protocol).items()]
    types = {name: _type_of([row[name] for row in rows]) for name in rows[0]}
    return pl.DataFrame(rows, schema=types)


def _type_of(values: Sequence[object]) -> type[pl.DataType]:
    """The type of a column of axes; what is off everywhere is a number that is null."""
    return next((_TYPES[type(value)] for value in values if value is not None), pl.Float64)


def axis_types(variants: pl.DataFrame) -> dict[str, type[pl.DataType]]:
    """Types of the columns of axes."""
    return {name: type(dtype) for name, dtype in variants.schema.items() if name != "variant"}


def with_axes(name: str, frame: pl.DataFrame, variants: pl.DataFrame) -> pl.DataFrame:
    """A frame with the values of its rows' variants in columns of their own.

    Args:
        name: of the frame.
        frame: with the columns of SCHEMAS.
        variants: as `variants_of`.
    """
    columns = list(dtypes(name, axis_types(variants)))
    if columns == frame.columns:
        return frame
    return frame.join(variants, on="variant", how="left", maintain_order="left", suffix="_of_axis").select(columns)


def without_axes(name: str, frame: pl.DataFrame, variant: str) -> pl.DataFrame:
    """The rows of a variant, as a run without axes has them."""
    if "variant" not in frame.columns:
        return frame
    return frame.filter(variant=variant).with_columns(variant=pl.lit("")).select(list(dtypes(name)))


def own_cautions(run: Mapping[str, Any], variant: str, others: Collection[str], *, by_group: bool) -> list[str]:
    """The cautions of a run less those that name members of other variants alone.

    Args:
        run: as run.json has it.
        variant: whose cautions they are.
        others: names of the other variants.
        by_group: whether each caution is about members of one group; one that leaves members out ("and 7 more") is
            known to be another variant's only then, and where no group has members of several.
    """
    groups = run.get("plan", {}).get("groups", ())
    mixed = any(len({json.dumps(member[2:]) for member in group.get("members", ())}) > 1 for group in groups)

    def named(name: str, line: str) -> bool:
        return re.search(rf", {re.escape(name)}[,)]", line) is not None

    def of_another(line: str) -> bool:
        whole = re.search(r" and \d+ more$", line) is None or (by_group and not mixed)
        return whole and not named(variant, line) and any(named(name, line) for name in others)

    return [line for line in map(str, run.get("warnings", ())) if not of_another(line)]


_ENDS = {
    "adversarial_test_accuracy": "test_accuracy",
    "attacked_accuracy_after_white_box": "attacked_accuracy_before_true",
    "worst_case_accuracy_after": "worst_case_accuracy_before",
}
"""Columns of the table that are of defended networks, and those that are of networks without a defence."""


def flat(name: str, frame: pl.DataFrame, *, mixed: bool) -> pl.DataFrame:
    """The rows of a frame with each candidate in a variant as a candidate of its own, as a run without axes has them.

    Args:
        name: of the frame.
        frame: of a run with axes.
        mixed: whether some variants have a defence and some have none: then the networks of the latter, which end with
            their training, stand in the table beside defended ones.
    """
    if "variant" not in frame.columns:
        return frame
    names = [column for column in frame.columns if column.endswith("hidden_layers")]
    frame = frame.with_columns(pl.format("{} {}", column, "variant").alias(column) for column in names)
    if name == "table" and mixed:
        frame = as_they_end(frame)
    return frame.with_columns(variant=pl.lit("")).select(list(dtypes(name)))


def as_they_end(table: pl.DataFrame) -> pl.DataFrame:
    """The table with the figures of networks without a defence, which end with their training, in the columns of
    defended ones."""
    undefended = pl.col("defence") == "none"
    return table.with_columns(
        pl.when(undefended).then(before).otherwise(after).alias(after) for after, before in _ENDS.items()
    )


def of_candidates(frame: pl.DataFrame, names: Collection[str]) -> pl.DataFrame:
    """The rows of a flattened frame that are of some candidates, which no row has beside others."""
    own = [column for column in frame.columns if column.endswith("hidden_layers")]
    return frame.filter(pl.col(own[0]).is_in(names)) if own else frame
