"""The section of the transfer."""

from __future__ import annotations

import dataclasses

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


def test_pairs_of_other_seeds_have_a_map_of_their_own(full: Results) -> None:
    other = full.transfer.with_columns(source_seed=1 - pl.col("seed"))
    both = dataclasses.replace(full, transfer=pl.concat([full.transfer, other]))
    maps = {figure.name: figure for figure in make_section("transfer", both).figures}
    own, copies = maps["transfer-fgsm-after"], maps["transfer-fgsm-from-other-seeds-after"]
    assert isinstance(own, HeatMap)
    assert isinstance(copies, HeatMap)
    assert own == report.figures(full)["transfer-fgsm-after"]
    assert copies.layers["after the defence"] == own.layers["after the defence"]
    assert "on copies of themselves" in copies.summary


def test_an_attack_at_the_predicted_label_has_a_map_of_its_own(full: Results) -> None:
    other = full.transfer.with_columns(label_source=pl.lit("predicted"), accuracy=pl.lit(1.0))
    both = dataclasses.replace(full, transfer=pl.concat([full.transfer, other]))
    maps = {figure.name: figure for figure in make_section("transfer", both).figures}
    alone = {figure.name: figure for figure in make_section("transfer", full).figures}
    assert maps["transfer-fgsm-after"] == alone["transfer-fgsm-after"]
    assert maps["transfer-fgsm-predicted-label-after"].title == "fgsm, predicted label, after the defence"


def test_what_others_leave_less_what_the_own_attack_leaves(full: Results) -> None:
    maps = report.figures(full)
    drawn, less = maps["transfer-fgsm-after"], maps["transfer-fgsm-after-less-own"]
    assert isinstance(drawn, HeatMap)
    assert isinstance(less, HeatMap)
    (values,), kept = less.layers.values(), drawn.layers["after the defence"]
    assert [values[index][index] for index in range(len(values))] == [0.0] * len(values)
    assert values[1][3] == pytest.approx(kept[1][3] - kept[3][3])  # type: ignore[operator]
    below = {column for row in values for column, value in enumerate(row) if value is not None and value < 0}
    told = f"{len(below)} target" if below else "no target is"
    assert told in less.summary
    # Below 0 in one half of the colours, above in the other, which say what they show.
    assert ">accuracy less own white-box</text>" in str(less.svg())
    assert ">accuracy of the target</text>" in str(drawn.svg())
    assert [f'class="d{colour}"' in str(less.svg()) for colour in (0, 19)] == [True, True]
