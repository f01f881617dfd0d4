"""The section of the provenance: versions, commit, checksums, timings and all of run.json."""

from __future__ import annotations

import json

import polars as pl

from atras.report.charts import Table, number
from atras.report.section import Section
from atras.results import Results


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
    code = (("run.json", json.dumps(results.run, indent=1)),)
    return Section("provenance", "Provenance", (again,), tables=tuple(tables), code=code)


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
