"""The black-box table: which transfers it takes, under which names, beside which white-box figures."""

from __future__ import annotations

import dataclasses
from typing import Any

import polars as pl
import pytest

from atras.analysis import black_box, masked, summary_lines
from atras.results import Results
from atras.results.frames import frame_of
from atras.testing.fake_run import make_run


@pytest.fixture(scope="module")
def fake() -> Results:
    return make_run(names=("24-192", "40"), seeds=(0, 1, 2))


def row(**changes: Any) -> dict[str, Any]:
    usual = {
        "dataset": "digits", "phase": "defended", "source_phase": "defended", "source_hidden_layers": "40",
        "source_seed": 1, "target_hidden_layers": "40", "variant": "", "seed": 0, "attack": "pgd",
        "surrogate": "independent", "norm": "linf", "epsilon": 0.05, "label_source": "true", "target": "none",
        "n": 899, "correct": 800, "protocol_hash": "0",
    }  # fmt: skip
    return usual | changes


def with_transfer(fake: Results, *rows: dict[str, Any]) -> Results:
    return dataclasses.replace(fake, transfer=frame_of("transfer", list(rows)))


def white_box(fake: Results, name: str, seed: int, attack: str = "pgd") -> float:
    own = fake.metrics.filter(
        hidden_layers=name, seed=seed, attack=attack, epsilon=0.05, phase="defended", mode="white-box"
    )
    return float(own["accuracy"].item())


def test_sources_have_the_names_of_the_field(fake: Results) -> None:
    found = black_box(with_transfer(
        fake,
        row(),
        row(surrogate=None, source_seed=2, correct=820),  # of --transfer, another copy of the candidate
        row(surrogate="40/2", source_seed=2, source_phase="trained", correct=840),
        row(surrogate="undefended", source_phase="trained", source_seed=0, correct=850),
        row(surrogate="losses(24-192+40)", source_hidden_layers="24-192+40", source_seed=0, correct=700),
        row(surrogate=None, source_hidden_layers="24-192", source_seed=0),  # a pair of candidates
        row(phase="trained", source_phase="trained"),
    ))  # fmt: skip
    assert found.select("source", "accuracy").rows() == [
        ("independent copy", pytest.approx(810 / 899)), ("independent natural", pytest.approx(840 / 899)),
        ("natural twin", pytest.approx(850 / 899)), ("losses(24-192+40)", pytest.approx(700 / 899)),
    ]  # fmt: skip
    assert found["white_box"].to_list() == [pytest.approx(white_box(fake, "40", 0))] * 4


def test_the_white_box_figure_may_come_from_the_transfer_or_be_unknown(fake: Results) -> None:
    other = {"attack": "pgd(steps=9)"}
    alone = black_box(with_transfer(fake, row(**other)))
    assert alone["white_box"].to_list() == [None]
    assert masked(alone).is_empty()
    diagonal = row(**other, source_seed=0, surrogate=None, correct=600)
    assert black_box(with_transfer(fake, row(**other), diagonal))["white_box"].to_list() == [pytest.approx(600 / 899)]


def test_images_of_others_that_turn_more_are_found(fake: Results) -> None:
    own = white_box(fake, "40", 0)
    for correct, found in ((round(899 * own) - 12, 1), (round(899 * own) - 6, 0), (899, 0)):
        assert len(masked(black_box(with_transfer(fake, row(correct=correct))))) == found
    assert masked(black_box(with_transfer(fake, row(correct=0, label_source="predicted")))).is_empty()


def test_members_that_did_not_train_are_left_out(fake: Results) -> None:
    found = with_transfer(fake, row(), row(seed=1, source_seed=2))
    dead = pl.when(pl.col("seed") == 1).then(pl.lit("dead")).otherwise(pl.col("status")).alias("status")
    assert black_box(dataclasses.replace(found, table=found.table.with_columns(dead)))["seed"].to_list() == [0]


def test_the_summary_of_a_run_shows_the_means(fake: Results) -> None:
    lines = summary_lines(with_transfer(fake, row(), row(seed=1, source_seed=2, correct=700)))
    start = lines.index("accuracy of defended networks on images made on others, means over members")
    own = (white_box(fake, "40", 0) + white_box(fake, "40", 1)) / 2
    assert lines[start + 1] == "pgd, epsilon 0.05"
    assert [line.split() for line in lines[start + 2 : start + 4]] == [
        ["itself", "(white-box)", f"{own:.4f}"], ["independent", "copy", f"{750 / 899:.4f}"],
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80
    assert not [line for line in summary_lines(fake) if "made on others" in line]


def test_attacks_that_aim_elsewhere_have_means_of_their_own(fake: Results) -> None:
    found = with_transfer(
        fake,
        row(correct=600),
        row(correct=700, label_source="predicted"),
        row(correct=899, label_source=None, target="class:3"),
    )
    lines = summary_lines(found)
    start = lines.index("accuracy of defended networks on images made on others, means over members")
    told = [line for line in lines[start + 1 :] if not line.startswith("  itself")]
    assert told[:6:2] == [
        "pgd, epsilon 0.05", "pgd, epsilon 0.05, predicted label", "pgd, epsilon 0.05, towards class:3",
    ]  # fmt: skip
    assert [line.split()[-1] for line in told[1:6:2]] == [f"{correct / 899:.4f}" for correct in (600, 700, 899)]


def test_a_mean_over_fewer_members_says_so(fake: Results) -> None:
    other = {"surrogate": "40", "source_hidden_layers": "40", "source_seed": 0, "target_hidden_layers": "24-192"}
    lines = summary_lines(with_transfer(fake, row(), row(**other, correct=500)))
    (line,) = [line for line in lines if line.startswith("  40 ")]
    assert line.split() == ["40", "(1", "of", "2", "members)", f"{500 / 899:.4f}"]
