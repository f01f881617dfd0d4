"""The section of the recovery."""

from __future__ import annotations

import polars as pl
import pytest

from atras import report
from atras.analysis import paper_tables
from atras.report.charts import Chart
from atras.testing.fake_run import make_run


def test_recovery_stands_beside_the_papers() -> None:
    chart = report.figures(make_run(dataset="mnist"))["recovery"]
    assert isinstance(chart, Chart)
    assert [series.label for series in chart.series] == ["white-box", "static", "paper (static)"]
    rows = paper_tables.trained_rows("mnist").filter(~pl.col("hidden_layers").str.contains("-"))
    expected = rows.select(pl.col("attacked_accuracy_after") - pl.col("attacked_accuracy_before")).to_series().mean()
    # The mean of four figures in another order of summation.
    assert chart.series[2].points[0].y == pytest.approx(expected, abs=1e-12)
