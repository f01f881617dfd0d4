"""The section of the recovery: the robust accuracy that the defence wins, by depth."""

from __future__ import annotations

import polars as pl

from atras.analysis import PAPER_NAMES, PaperName, trained_rows
from atras.report.section import Section
from atras.results import Results

from .depth_charts import depth_chart, depth_means
from .population import images


def recovery(results: Results) -> Section:
    """Recovery by depth, beside the paper's where it has a table of the data set.

    Args:
        results: the run.

    Returns:
        The section.
    """
    title = "Recovery by depth"
    trained = results.table.filter(pl.col("status") == "trained")
    estimates = {
        "white-box": depth_means(trained, "recovery_white_box", images(results), results),
        "static": depth_means(trained, "recovery_static", images(results), results),
    }
    text = [
        "Recovery is robust accuracy after the defence minus robust accuracy before it, averaged over the members that "
        "trained."
    ]
    paper = next((name for name in PAPER_NAMES if name == results.dataset), None)
    if paper:
        estimates["paper (static)"] = depth_means(_paper_recovery(paper), "recovery")
        text.append(
            "The paper's figures are those of its table, over the rows that trained; its attack is the static one."
        )
    else:
        text.append(
            "The paper has no table of this data set: run with --dataset mnist or --dataset cifar10 to compare."
        )
    estimates = {label: means for label, means in estimates.items() if means}
    if not estimates:
        text.append("No candidate trained and was defended: run with --adversarial-epochs 1 or more.")
        return Section("recovery", title, tuple(text))
    return Section("recovery", title, tuple(text), (depth_chart("recovery", title, "recovery", estimates),))


def _paper_recovery(dataset: PaperName) -> pl.DataFrame:
    gain = pl.col("attacked_accuracy_after") - pl.col("attacked_accuracy_before")
    depth = pl.col("hidden_layers").str.count_matches("-").cast(pl.Int64) + 1
    seed = pl.lit(0, pl.Int64)
    return trained_rows(dataset).select("hidden_layers", seed=seed, depth=depth, recovery=gain)
