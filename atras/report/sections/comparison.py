"""The section that compares several runs; it stands before those of each run."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from atras.analysis import difference_lines, ordered, other_test_images
from atras.report.charts import Table, number
from atras.report.section import Section
from atras.results import Results

from .depth_charts import depth_chart, depth_means
from .population import images


def comparison(runs: Sequence[Results], names: Sequence[str]) -> Section:
    """A row for each run, and white-box robust accuracy by depth beside one another.

    Args:
        runs: the runs.
        names: of each, all different.

    Returns:
        The section.
    """
    columns = ("run", "data set", "candidates", "seeds", "epsilon", "trained", "clean", "robust, white-box")
    rows = tuple(_row(run, name) for run, name in zip(runs, names, strict=True))
    trained = [run.table.filter(pl.col("status") == "trained") for run in runs]
    estimates = {
        name: depth_means(frame, _robust(run), images(run), run)
        for name, frame, run in zip(names, trained, runs, strict=True)
    }
    estimates = {name: means for name, means in estimates.items() if means}
    title, label = "White-box robust accuracy by depth", "white-box robust accuracy"
    figures = (depth_chart("comparison", title, label, estimates, most=1),) if estimates else ()
    text = ["Means are over the members that trained. Each run's own report follows."]
    others = [name for run, name in zip(runs[1:], names[1:], strict=True) if other_test_images(runs[0], run)]
    if others:
        apart = "Their figures stand side by side, but a difference is also that of the images."
        text.insert(0, f"Measured on other test images than {names[0]}: {', '.join(others)}. {apart}")
    first = f"differs from {names[0]} in"
    differences = tuple(
        (name, line) for run, name in zip(runs[1:], names[1:], strict=True) for line in difference_lines(runs[0], run)
    )
    unlike = (Table("What the runs do not share", ("run", first), differences),) if differences else ()
    table = Table("Runs", (*columns, "most robust", "protocol hash"), rows)
    return Section("comparison", "Runs compared", tuple(text), figures, (table, *unlike))


def _robust(run: Results) -> str:
    """The column of a run's robust accuracy: without a defence the worst case over its attacks."""
    return run.final.white_box if run.defends else run.final.worst


def _row(run: Results, name: str) -> tuple[str, ...]:
    trained = run.table.filter(pl.col("status") == "trained")
    first = ordered(run).head(1).filter(pl.col("trained") > 0)
    best = f"{first['hidden_layers'][0]} ({number(first['mean'][0])})" if len(first) else "-"
    means = [number(trained.select(pl.col(column).mean()).item()) for column in (run.final.clean, _robust(run))]
    protocol = run.run["protocol"]
    counts = (str(len(protocol["candidates"])), str(len(protocol["seeds"])), str(protocol.get("epsilon", "-")))
    members = f"{len(trained)} of {len(protocol['candidates']) * len(protocol['seeds'])}"
    return name, run.dataset, *counts, members, *means, best, run.run["protocol_hash"]
