"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from atras.report.charts.plots import Table
from atras.report.charts.scales import number
from atras.results.results import Results

from . import population as pop
from .population import WHITE_BOX, CLEAN_AFTER
from .section import Section, depth_chart


def labels(runs: Sequence[Results]) -> list[str]:
    """What the runs are called: their folder's name, else their data set; numbered where there are several."""
    names = [run.directory.resolve().name if run.directory else run.dataset for run in runs]
    return names if len(names) == 1 else [f"{index}. {name}" for index, name in enumerate(names, 1)]


def comparison(runs: Sequence[Results], names: Sequence[str]) -> Section:
    """A row a run, and white-box robust accuracy by depth beside one another."""
    columns = (
        "run", "data set", "candidates", "seeds", "epsilon", "clean", "robust, white-box", "most robust", "protocol hash"
    )  # fmt: skip
    rows = tuple(_row(run, name) for run, name in zip(runs, names, strict=True))
    trained = [run.table.filter(pl.col("status") == "trained") for run in runs]
    found = {name: pop.depth_means(frame, WHITE_BOX) for name, frame in zip(names, trained, strict=True)}
    found = {name: means for name, means in found.items() if means}
    title, label = "White-box robust accuracy by depth", "white-box robust accuracy"
    figures = (depth_chart("comparison", title, label, found, most=1),) if found else ()
    text = "Means are over the members that trained. Each run's own report follows."
    return Section("comparison", "Runs compared", (text,), figures, (Table("Runs", columns, rows),))


def _row(run: Results, name: str) -> tuple[str, ...]:
    trained = run.table.filter(pl.col("status") == "trained")
    winner = pop.best(pop.entries(run))
    best = f"{winner.name} ({number(winner.figures[WHITE_BOX].mean)})" if winner else "-"
    means = [number(trained.select(pl.col(column).mean()).item()) for column in (CLEAN_AFTER, WHITE_BOX)]
    protocol = run.run["protocol"]
    counts = (str(len(protocol["candidates"])), str(len(protocol["seeds"])), str(protocol.get("epsilon", "-")))
    return name, run.dataset, *counts, *means, best, run.run["protocol_hash"]
