"""The section of the training: loss and accuracy of each epoch."""

from __future__ import annotations

import polars as pl

from atras.report.charts import Axis, Chart, linear, rounded
from atras.report.section import Section
from atras.results import Results

from .depth_charts import lines_by_depth
from .population import trained_members


def training(results: Results) -> Section:
    """Loss and accuracy by epoch, a line for each depth.

    Args:
        results: the run.

    Returns:
        The section.
    """
    history = results.history.join(trained_members(results), on=["hidden_layers", "seed"], maintain_order="left")
    if history.is_empty():
        return Section("training", "Training", ("No epoch was recorded: no member trained.",))
    first = int(str(history.filter(pl.col("phase") == "train")["epoch"].max() or 0))
    later = pl.when(pl.col("phase") == "adversarial").then(first).otherwise(0)
    history = history.with_columns(at=pl.col("epoch") + later)
    text = "Loss and accuracy during training, averaged over the members that trained, by depth."
    if results.defends:
        text += f" Adversarial training begins after epoch {first}."
    charts = (_chart(history, "mean_loss", "training loss"), _chart(history, "running_accuracy", "training accuracy"))
    return Section("training", "Training", (text,), charts)


def _chart(history: pl.DataFrame, column: str, label: str) -> Chart:
    means = history.filter(pl.col(column).is_finite()).group_by("depth", "at").agg(pl.col(column).mean())
    series = lines_by_depth(means.sort("depth", "at"), "at", column)
    values = means[column].to_list()
    y = linear(label, [0.0, *values], 0) if column == "mean_loss" else linear(label, [0.0, 1.0], 0, 1)
    ends = sorted((entry.points[-1].y, entry.label) for entry in series)
    (least, last), (most, first) = ends[0], ends[-1]
    told = f"lowest with {last}, {rounded(least)}, highest with {first}, {rounded(most)}"
    told = told if len(ends) > 1 else rounded(most)
    name, title = column.replace("_", "-"), label.capitalize()
    return Chart(name, title, f"After the last epoch: {told}.", _epochs(history), y, series)


def _epochs(history: pl.DataFrame) -> Axis:
    last = int(str(history["at"].max()))
    axis = linear("epoch", [0, last], 0)
    return Axis(axis.label, 0, max(axis.high, 1), tuple(tick for tick in axis.ticks if tick[0] == int(tick[0])))
