"""Depths against one another: paired by seed, and corrected for their number at no cost."""

from __future__ import annotations

import pytest

from atras.analysis.statistics import compare_depths, depth_means
from made_rows import ROBUST
from made_rows import robust_row as row
from made_rows import robust_run as run_of


def test_depths_are_paired_by_seed_and_corrected() -> None:
    # Depth 1 is better by 0.02 with each seed, though seeds differ by far more than that.
    rows = [row("8", 0.5 + 0.1 * seed + 0.02, seed) for seed in range(6)]
    rows += [row("8-16", 0.5 + 0.1 * seed, seed) for seed in range(6)]
    rows += [row("8-16-32", 0.5 + 0.1 * seed + 0.001 * (-1) ** seed, seed) for seed in range(6)]
    found = compare_depths(run_of(rows))
    assert found.select("depth_a", "depth_b", "seeds").rows() == [(1, 2, 6), (1, 3, 6), (2, 3, 6)]
    assert found["difference"].to_list() == pytest.approx([-0.02, -0.02, 0.0])
    assert found["p"].to_list() == pytest.approx([2 / 64, 2 / 64, 1.0])
    # Corrected: of all patterns, those that make the third pair's differences of one sign are as extreme, and no more.
    assert found["p_corrected"].to_list() == pytest.approx([4 / 64, 4 / 64, 1.0])


def test_a_candidate_that_failed_with_one_seed_is_left_out_with_all() -> None:
    rows = [row("8", 0.9), row("8", 0.9, 1), row("16", 0.5), row("16", 0.1, 1, "dead")]
    assert depth_means(run_of(rows).table, ROBUST).rows() == [(1, 0, 0.9), (1, 1, 0.9)]


def test_one_seed_compares_nothing() -> None:
    assert len(compare_depths(run_of([row("8", 0.9), row("8-16", 0.8)]))) == 0
