"""Results as plain values for scripts: JSON of a run, CSV of a frame."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import polars as pl

from atras.checks import one_of
from atras.results import ACCURACIES, SCHEMAS, Results

from .claims import claims, table_claims, why_no_claims
from .compare import compare
from .confirmed import confirmed
from .network_table import network_table
from .paper_tables import PAPER_NAMES, row_by_row, tables_oddities
from .paper_text import Stated, stated_figures, tables_figures
from .provenance import data_differences, notices
from .statistics import Interval, depth_intervals, independent_images, pareto, ranking
from .winner import Winner, winners


def run_data(results: Results, rank_by: str = "accuracy") -> dict[str, Any]:
    """A run as JSON values: every figure that `summary_lines` shows with an interval has it here too.

    Args:
        results: a run's frames.
        rank_by: of `ranking`.

    Returns:
        `folder`, `status`, `missing` (empty of a whole run), `dataset`, `protocol_hash`, `version`, `notices`,
        `cautions`, `majority_share`, and rows (objects, column by column) of `table`, `candidates` (means over seeds),
        `ranking`, and `depths` with their `intervals` (`depths_data`); of a run without a defence also of `networks`
        (`network_table`), of one with fresh seeds of `confirmed`. `winner` is the first of the ranking; null without
        one, and where there are several strengths of attack, whose figures are not compared: then `winners` has that of
        each, by the text that rows of `ranking` have as `measured_at`.
    """
    firsts = winners(results, rank_by=rank_by)
    return {
        "folder": None if results.directory is None else str(results.directory),
        "status": results.run.get("status"),
        "missing": results.missing(),
        "dataset": results.dataset,
        "protocol_hash": results.run.get("protocol_hash"),
        "version": results.run.get("version"),
        "notices": notices(results),
        "cautions": [str(line) for line in results.run.get("warnings", ())],
        "majority_share": results.majority_share,
        "table": rows_data(results.table),
        "candidates": rows_data(results.candidate_means()),
        "ranking": rows_data(ranking(results, rank_by=rank_by)),
        "winner": _winner(firsts[""]) if "" in firsts else None,
        **({} if "" in firsts or not firsts else {"winners": {at: _winner(first) for at, first in firsts.items()}}),
        "depths": depths_data(results),
        **({"confirmed": rows_data(confirmed(results))} if results.run.get("confirmed") else {}),
        **({} if results.defends else {"networks": _networks(results)}),
    }


def depths_data(results: Results) -> list[dict[str, Any]]:
    """Rows of `Results.by_depth`, each with `intervals`: by accuracy the ends of its 95 % interval (`depth_intervals`),
    null where nothing tells them."""
    rows = []
    for name in results.variants["variant"]:
        one = results.of_variant(name)
        trained = one.table.filter(status="trained")
        found = {
            column: depth_intervals(trained, column, independent_images(one, column), one)
            for column in ACCURACIES
            if trained[column].count()
        }
        for row in rows_data(one.by_depth()):
            own = {column: depths[row["depth"]] for column, depths in found.items() if row["depth"] in depths}
            ends = {column: [each.low, each.high] for column, each in own.items()}
            rows.append({**row, "variant": name, "intervals": ends})
    return rows


def _networks(results: Results) -> list[dict[str, Any]]:
    """Rows of `network_table` of each variant, with its name."""
    variants = {name: results.of_variant(name) for name in results.variants["variant"]}
    return [{"variant": name, **row} for name, one in variants.items() for row in rows_data(network_table(one))]


def _winner(first: Winner) -> dict[str, Any]:
    """Its fields, of which intervals are objects."""
    told = {name: value._asdict() if isinstance(value, Interval) else value for name, value in first._asdict().items()}
    return {name: _plain(value) for name, value in told.items()}


def search_data(results: Results, rank_by: str) -> dict[str, Any]:
    """A search's last round as JSON values: those of `run_data`, and rows of `pareto`.

    Args:
        results: the last round.
        rank_by: what the search ranks by.
    """
    return {
        **run_data(results, rank_by),
        "rank_by": rank_by,
        "pareto": rows_data(pareto(results, rank_by=rank_by)),
    }


def claims_data(results: Results | None = None) -> dict[str, Any]:
    """The paper's claims as JSON values.

    Args:
        results: a run; None for the paper's tables alone.

    Returns:
        `folder`, `notices`, rows of `claims`, of `table_claims` by data set, of `stated` (each stated figure with the
        columns and rows that give it, on the two tables and on the run), of `tables` (what they show besides) and, as
        `rows`, of `row_by_row`.
    """
    none = "" if results is None else why_no_claims(results)
    stated = tables_figures() if results is None or none else stated_figures(results, partial=True)
    tables = {name: [_plain(dataclasses.asdict(claim)) for claim in table_claims(name)] for name in PAPER_NAMES}
    shown = {"table_claims": tables, "stated": [_stated(one) for one in stated], "tables": rows_data(tables_oddities())}
    if results is None:
        return {"folder": None, "notices": [], "claims": [], **shown, "rows": []}
    return {
        "folder": None if results.directory is None else str(results.directory),
        "notices": [*notices(results), *([none] if none else [])],
        "claims": [] if none else [_plain(dataclasses.asdict(claim)) for claim in claims(results, partial=True)],
        **shown,
        "rows": rows_data(row_by_row(results)),
    }


def _stated(one: Stated) -> dict[str, Any]:
    return {
        "statement": one.statement.name,
        "where": one.where,
        "stated": one.stated,
        "as_the_paper_has_it": one.statement.theirs.text,
        "theirs": _plain(one.theirs),
        "theirs_verdict": one.theirs_verdict,
        "ours_text": one.statement.ours.text,
        "ours": _plain(one.ours),
        "ours_verdict": one.ours_verdict,
    }


def comparison_data(a: Results, b: Results, *, partial: bool = False) -> dict[str, Any]:
    """Two runs side by side as JSON values: their folders, `data_differences`, `notices` of each, and rows of
    `compare`.

    Raises:
        InputError: as `compare`.
    """
    return {
        "folders": [None if run.directory is None else str(run.directory) for run in (a, b)],
        "data_differences": data_differences(a, b),
        "notices": [notices(run) for run in (a, b)],
        "differences": rows_data(compare(a, b, partial=partial)),
    }


def rows_data(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows as objects; what is no number or infinite becomes null."""
    return [{name: _plain(value) for name, value in row.items()} for row in frame.iter_rows(named=True)]


def json_text(value: object) -> str:
    """JSON values as text of several lines, the same for equal values.

    Raises:
        ValueError: if a number in it has no form in JSON.
    """
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | pl.Series):
        return [_plain(each) for each in value]
    return value


def frame_csv(results: Results, name: str) -> str:
    """A frame of a run as CSV with a heading; lists stand in it as JSON, bytes as hexadecimal digits.

    Raises:
        InputError: if there is no frame of that name.
    """
    one_of("frame", name, tuple(SCHEMAS))
    frame: pl.DataFrame = getattr(results, name)
    nested = [column for column, dtype in frame.schema.items() if dtype.is_nested() or dtype == pl.Binary]
    return frame.with_columns(_as_text(frame[column]) for column in nested).write_csv()


def _as_text(column: pl.Series) -> pl.Series:
    """Lists as JSON and bytes as hexadecimal digits."""
    values = [_plain(value) for value in column]
    return pl.Series(
        column.name,
        [value if value is None or type(value) is str else json.dumps(value) for value in values],
        pl.String,
    )
