"""The section of black-box attacks."""

from __future__ import annotations

import dataclasses
from typing import Any

import polars as pl
import pytest

from atras.report.registry import make_section
from atras.results import Results
from atras.results.frames import frame_of
from atras.testing.fake_run import make_run


def run_with(correct: int, attack: str = "pgd") -> Results:
    fake = make_run(names=("24-192", "40"), seeds=(0, 1))
    rows: list[dict[str, Any]] = [
        {
            "dataset": "digits", "phase": "defended", "source_phase": phase, "source_hidden_layers": name,
            "source_seed": (seed + other) % 2, "target_hidden_layers": name, "variant": "", "seed": seed,
            "attack": attack, "surrogate": surrogate, "norm": "linf", "epsilon": 0.05, "label_source": "true",
            "target": "none", "n": 899, "correct": correct, "protocol_hash": "0",
        }
        for name in ("24-192", "40") for seed in (0, 1)
        for surrogate, phase, other in (
            ("independent", "defended", 1), ("undefended", "trained", 0), ("undefended:independent", "trained", 1)
        )
    ]  # fmt: skip
    return dataclasses.replace(fake, transfer=frame_of("transfer", rows))


def test_the_table_has_a_row_a_candidate_and_a_column_a_source() -> None:
    section = make_section("black_box", run_with(890))
    (table,) = section.tables
    assert table.title == "pgd, epsilon 0.05"
    assert table.columns == ("hidden layers", "white-box", "independent copy", "natural twin", "independent natural")
    assert [row[0] for row in table.rows] == ["24-192", "40"]
    assert {cell for row in table.rows for cell in row[2:]} == {"0.9900"}
    assert "No network is turned more often by images made elsewhere than by its own." in section.text[-1]


def test_a_transferred_attack_that_is_stronger_is_a_caution() -> None:
    text = make_section("black_box", run_with(100)).text[-1]
    assert "a sign of masked gradients, on 24-192 (seed 0), 24-192 (seed 1), 40 (seed 0), 40 (seed 1)." in text
    assert "independent copy 0.1112, natural twin 0.1112" in text


def test_without_the_white_box_attack_nothing_is_concluded() -> None:
    assert "nothing can be said of masked gradients" in make_section("black_box", run_with(100, "square")).text[-1]


def test_surrogates_are_no_part_of_the_transfer_map() -> None:
    assert "No transfer matrix" in make_section("transfer", run_with(890)).text[0]


@pytest.mark.parametrize("option", ["surrogate=independent", "surrogate=undefended", "--seeds 0-1"])
def test_what_was_not_recorded_is_named_with_its_option(option: str) -> None:
    section = make_section("black_box", make_run(complete=False))
    assert option in section.text[0]
    assert not section.tables


def test_an_attack_that_aims_elsewhere_tells_nothing_of_masked_gradients() -> None:
    run = run_with(100)
    aimed = run.transfer.with_columns(target=pl.lit("class:3"), label_source=pl.lit(None, pl.String))
    own = run.metrics.with_columns(
        target=pl.when(pl.col("attack") == "pgd").then(pl.lit("class:3")).otherwise("target"),
        label_source=pl.when(pl.col("attack") != "pgd").then("label_source"),
    )
    text = make_section("black_box", dataclasses.replace(run, transfer=aimed, metrics=own)).text[-1]
    assert text.startswith("pgd, epsilon 0.05, towards class:3: white-box 0.")
    assert text.endswith("Only attacks at the true label tell of masked gradients.")
