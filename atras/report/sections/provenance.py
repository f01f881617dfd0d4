"""The section of the provenance: versions, commit, checksums, timings and all of run.json."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from atras.report.charts import Table, number
from atras.report.section import Section
from atras.results import Results

LINE = 100
"""Most characters of a line of run.json, but for one value that is longer."""


def provenance(results: Results) -> Section:
    """Everything the figures depend on, in full.

    Args:
        results: the run.

    Returns:
        The section.
    """
    again = "With the run's folder at hand, python -m atras.batched --config FOLDER/run.json repeats the run."
    timings = tuple(
        (str(row["phase"]), number(row["seconds"]))
        for row in results.timings.group_by("phase", maintain_order=True)
        .agg(pl.col("seconds").sum())
        .iter_rows(named=True)
    )
    tables = [_origin(results)]
    if timings:
        tables.append(Table("Seconds by phase, over all groups", ("phase", "seconds"), timings))
    code = (("run.json", _json(results.run)),)
    return Section("provenance", "Provenance", (again,), tables=tuple(tables), code=code, detail=True)


def _json(value: Any, margin: str = "") -> str:
    """JSON with what fits into a line on one: a plan names each of its members, which on lines of their parts fill
    most of the pages that a report is printed on."""
    flat = json.dumps(value)
    if not value or not isinstance(value, dict | list) or len(margin) + len(flat) <= LINE:
        return flat
    inner = f"{margin} "
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(key)}: {_json(each, inner)}" for key, each in value.items()]
    else:
        parts = [f"{inner}{_json(each, inner)}" for each in value]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return "\n".join((start, ",\n".join(parts), f"{margin}{end}"))


def _origin(results: Results) -> Table:
    run = results.run
    environment, data = run.get("environment", {}), run.get("data", {})
    facts = {
        "folder": results.directory,
        "status": run.get("status"),
        "protocol hash": run.get("protocol_hash"),
        "atras": run.get("version"),
        "commit": environment.get("commit"),
        "device": environment.get("gpu") or environment.get("device"),
        "processor": environment.get("cpu", {}).get("model"),
        "platform": environment.get("platform"),
        **{name: version for name, version in environment.get("versions", {}).items() if name != "atras"},
        "engine": run.get("plan", {}).get("engine"),
        "precision": run.get("plan", {}).get("precision"),
        "data set": data.get("source"),
        "data status": data.get("status"),
        **{f"SHA-256 {name}": digest for name, digest in data.get("sha256", {}).items()},
    }
    rows = tuple((name, str(fact)) for name, fact in facts.items() if fact is not None)
    return Table("Origin", ("what", "value"), rows)
