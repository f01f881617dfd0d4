"""The section of the transfer."""

from __future__ import annotations

import polars as pl
import pytest

from atras import report
from atras.report.charts import HeatMap
from atras.report.registry import make_section
from atras.results.results import Results
from atras.testing.fake_run import make_run


def test_transfer_maps_hold_every_pair(full: Results) -> None:
    drawn = report.figures(full)["transfer-fgsm-after"]
    assert isinstance(drawn, HeatMap)
    assert list(drawn.layers) == ["after the defence", "before the defence"]
    source, target = drawn.names[1], drawn.names[3]
    same = pl.col("source_hidden_layers").eq(source) & pl.col("target_hidden_layers").eq(target)
    frame = full.transfer.filter(same & (pl.col("phase") == "defended"))
    # Two seeds, summed in either order.
    assert drawn.layers["after the defence"][1][3] == pytest.approx(frame["accuracy"].mean(), abs=1e-12)
    sizes = dict(full.table.select("hidden_layers", "parameters").iter_rows())
    assert [sizes[name] for name in drawn.names] == sorted(sizes.values())


def test_a_large_population_shows_a_part_of_its_transfer_map() -> None:
    names = tuple(str(width) for width in range(8, 8 + 66))
    many = make_run(names=names, seeds=(0,))
    assert "64 of 66 candidates" in " ".join(make_section("transfer", many).text)
    assert len(report.figures(many)["transfer-fgsm-before"].table.rows) == 64
