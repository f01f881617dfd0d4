"""The order of a run's rows: that of candidates, variants and seeds, whatever the order in which groups finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from atras.errors import InputError

from .variants import variants_of

Row = dict[str, object]


def in_order(frames: Mapping[str, pl.DataFrame], protocol: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
    """Frames with their rows in order; those of one member keep theirs.

    Args:
        frames: by name.
        protocol: as run.json has it.

    Raises:
        InputError: if a row is of no member of the protocol.
    """
    return {name: ordered([frame], protocol) for name, frame in frames.items()}


def ordered(held: list[pl.DataFrame], protocol: Mapping[str, Any]) -> pl.DataFrame:
    """A frame with its rows in order.

    Args:
        held: the frame, which is taken out of this list: where nobody else holds it, its columns go as their successors
            come, so that a large frame is never there twice.
        protocol: as run.json has it.

    Raises:
        InputError: if a row is of no member of the protocol.
    """
    frame = held.pop()
    check_members(frame, protocol)
    keys = [
        pl.col(column).replace_strict({name: place for place, name in enumerate(known)}, return_dtype=pl.Int64)
        for column, known in _known(frame, protocol).items()
    ]
    if not keys:
        return frame.rechunk()
    places = frame.select(pl.arg_sort_by(keys, maintain_order=True).alias("place"))["place"]
    if places.is_sorted():
        return frame.rechunk()
    columns = frame.get_columns()[::-1]
    del frame
    made = []
    while columns:
        made.append(columns.pop().gather(places).rechunk())
    return pl.DataFrame(made)


def packed_in_order(rows: Sequence[Row], protocol: Mapping[str, Any]) -> list[Row]:
    """Rows in the order of their members, before each becomes as many as there are images."""
    known = {column: protocol[name] for column, name in (("hidden_layers", "candidates"), ("seed", "seeds"))}
    known["variant"] = variants_of(protocol)["variant"].to_list()
    places = {column: {value: place for place, value in enumerate(values)} for column, values in known.items()}
    columns = ("hidden_layers", "variant", "seed")
    # What is no member's is refused later, in a line.
    return sorted(rows, key=lambda row: [places[column].get(row[column], 0) for column in columns])


def check_members(frame: pl.DataFrame, protocol: Mapping[str, Any]) -> None:
    """Refuse rows of what is no member of the protocol.

    Raises:
        InputError: if there are any.
    """
    for column, known in _known(frame, protocol).items():
        if strange := set(frame[column].unique()) - set(known):
            raise InputError(
                f"{column} (={strange.pop()!r}): expected one of the protocol's; use its own candidates, axes and seeds"
            )


def _known(frame: pl.DataFrame, protocol: Mapping[str, Any]) -> dict[str, list[Any]]:
    if "hidden_layers" not in frame.columns:
        return {}
    variants = variants_of(protocol)["variant"].to_list()
    return {"hidden_layers": protocol["candidates"], "variant": variants, "seed": protocol["seeds"]}
