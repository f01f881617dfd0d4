"""Certainty: intervals cover, tests are exact, rankings tie where intervals overlap."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from atras.analysis.statistics import (
    EXACT,
    bootstrap_mean,
    compare_depths,
    depth_means,
    holm,
    independent_images,
    mean_difference,
    pareto,
    ranking,
    robust_column,
    sign_flip_test,
)
from atras.errors import InputError
from atras.results.frames import wilson
from atras.results.results import Results
from atras.results.schemas import SCHEMAS, dtypes

ROBUST = "attacked_accuracy_after_white_box"


def run_of(rows: list[dict[str, Any]], images: int = 0) -> Results:
    """A run with these table rows, and a metrics row that counts the test images."""
    frames = {name: pl.DataFrame(schema=dtypes(name)) for name in SCHEMAS}
    frames["table"] = pl.DataFrame(rows, schema=dtypes("table"))
    frames["metrics"] = pl.DataFrame([{"split": "test", "n": images}] if images else [], schema=dtypes("metrics"))
    return Results(**frames, run={"protocol": {"dataset": "digits"}})


def row(name: str, robust: float | None, seed: int = 0, status: str = "trained", parameters: int = 0) -> dict[str, Any]:
    depth = name.count("-") + 1
    return {
        "hidden_layers": name, "depth": depth, "parameters": parameters or sum(map(int, name.split("-"))),
        "seed": seed, "status": status, ROBUST: robust,
    }  # fmt: skip


# Bootstrap


def test_the_interval_of_a_normal_sample_is_near_students() -> None:
    values = np.random.default_rng(3).normal(0.9, 0.02, 20).tolist()
    found = bootstrap_mean(values)
    exact = stats.t.interval(0.95, 19, np.mean(values), stats.sem(values))
    assert found.mean == pytest.approx(np.mean(values))
    # 10,000 resamples know a 2.5 % quantile to about 3 % of the half width; Student's and the bootstrap differ by more.
    half = (exact[1] - exact[0]) / 2
    assert found.low == pytest.approx(exact[0], abs=0.1 * half)
    assert found.high == pytest.approx(exact[1], abs=0.1 * half)


@pytest.mark.parametrize("size", [8, 20])
def test_intervals_cover_the_mean_as_often_as_promised(size: int) -> None:
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(400, size))
    ends = [bootstrap_mean(sample, resamples=1000)[1:] for sample in samples.tolist()]
    covered = np.mean([low <= 0 <= high for low, high in ends if low is not None and high is not None])
    # Of 400 trials at 95 % the standard deviation is 1.1 points; at n = 8 the method itself lacks about 2.
    assert 0.91 <= covered <= 0.985


def test_equal_arguments_give_equal_bits_and_another_seed_does_not() -> None:
    values = np.random.default_rng(5).normal(size=30).tolist()
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)


def test_one_value_has_no_interval_and_equal_values_have_an_empty_one() -> None:
    assert bootstrap_mean([0.5]) == (0.5, None, None)
    assert bootstrap_mean([0.1] * 7) == pytest.approx((0.1, 0.1, 0.1))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_an_interval_holds_its_mean_and_stays_within_the_values(values: list[float]) -> None:
    mean, low, high = bootstrap_mean(values, resamples=50)
    assert low is not None
    assert high is not None
    assert low <= mean <= high
    assert min(values) - 1e-12 <= low
    assert high <= max(values) + 1e-12


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [[0.5]]])
def test_values_that_are_no_numbers_are_refused(values: Any) -> None:
    with pytest.raises(InputError, match="expected one or more finite numbers"):
        bootstrap_mean(values)
    with pytest.raises(InputError, match="expected one or more finite numbers"):
        sign_flip_test(values)


def test_unpaired_means_have_welchs_interval() -> None:
    generator = np.random.default_rng(4)
    left, right = generator.normal(1, 1, 4).tolist(), generator.normal(0, 3, 18).tolist()
    expected = stats.ttest_ind(left, right, equal_var=False).confidence_interval(0.99)
    assert mean_difference(left, right, confidence=0.99)[1:] == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert mean_difference([1.0], right)[1:] == (None, None)
    assert mean_difference([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25, 0.25)


# Tests


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_differences_of_one_sign_have_the_least_p_value(n: int) -> None:
    assert sign_flip_test([0.1 * (i + 1) for i in range(n)]) == 2.0 ** (1 - n)


def test_p_values_agree_with_scipy() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 9)

    def total(x: Any, axis: int = -1) -> Any:
        return np.abs(np.sum(x, axis=axis))

    # "samples" permutes the sign of each: both count all 512 patterns.
    found = stats.permutation_test(
        (values,), total, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert sign_flip_test(values.tolist()) == pytest.approx(found.pvalue, abs=1e-12)


def test_many_differences_are_flipped_at_random_to_the_same_p_value() -> None:
    values = np.random.default_rng(2).normal(0.25, 1, EXACT + 4)
    patterns = np.array(list(itertools.product((1, -1), repeat=len(values))), dtype=np.int8)
    exact = (np.abs(patterns @ values) >= abs(values.sum()) - 1e-12).mean()
    # 10,000 draws: three standard deviations of a share.
    assert sign_flip_test(values.tolist()) == pytest.approx(exact, abs=3 * (exact * (1 - exact) / 10_000) ** 0.5)


def test_no_difference_at_all_is_p_one() -> None:
    assert sign_flip_test([0.0] * 5) == sign_flip_test([0.0] * 50) == 1.0


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.9: times 4, 3, 2, 1, never falling, at most 1.
    assert holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


# Ranking


def test_ranks_tie_where_intervals_overlap() -> None:
    rows = [
        row(name, centre + shift, seed)
        for name, centre in (("8", 0.5), ("16", 0.905), ("24", 0.9))
        for seed, shift in enumerate((-0.01, 0.0, 0.01, -0.005, 0.005))
    ]
    found = ranking(run_of(rows))
    assert found.select("hidden_layers", "rank_low", "rank_high").rows() == [("16", 1, 2), ("24", 1, 2), ("8", 3, 3)]
    assert found["seeds"].to_list() == found["trained"].to_list() == [5, 5, 5]


def test_test_images_widen_the_interval() -> None:
    rows = [row("8", 0.9, seed) for seed in range(5)]
    found = ranking(run_of(rows, images=100)).row(0, named=True)
    assert (found["low"], found["high"]) == pytest.approx(wilson(90, 100))
    assert ranking(run_of(rows)).row(0, named=True)["low"] == pytest.approx(0.9)


def test_members_that_failed_count_nothing() -> None:
    rows = [row("8", 0.9), row("8", 0.1, 1, "dead"), row("16", 0.9), row("16", None, 1, "diverged"), row("24", 0.6)]
    found = ranking(run_of(rows))
    assert dict(found.select("hidden_layers", "mean").iter_rows()) == pytest.approx({"24": 0.6, "8": 0.45, "16": 0.45})
    assert dict(found.select("hidden_layers", "trained").iter_rows()) == {"24": 1, "8": 1, "16": 1}


def test_the_worst_case_outranks_the_white_box_figure() -> None:
    rows = [{**row("8", 0.9), "worst_case_accuracy_after": 0.2}, {**row("16", 0.8), "worst_case_accuracy_after": 0.3}]
    assert ranking(run_of(rows))["hidden_layers"].to_list() == ["16", "8"]
    assert robust_column(run_of([row("8", 0.9)])) == ROBUST


def test_dead_members_never_win_however_frequent_their_class() -> None:
    rows = [
        row("8", 0.9, 0, "dead"),
        row("8", 0.9, 1, "dead"),
        row("16", 0.7),
        row("16", 0.9, 1, "dead"),
        row("24", 0.0),
    ]
    assert ranking(run_of(rows))["hidden_layers"].to_list() == ["16", "24", "8"]
    assert pareto(run_of(rows))["hidden_layers"].to_list() == ["16"]
    assert not len(pareto(run_of(rows[:2])))


def test_balanced_accuracy_ranks_when_asked() -> None:
    rows = [
        {**row("8", 0.9), "balanced_accuracy_after_white_box": 0.5},
        {**row("16", 0.8), "balanced_accuracy_after_white_box": 0.7},
    ]
    for name, best in (("accuracy", "8"), ("balanced", "16")):
        assert ranking(run_of(rows), rank_by=name)["hidden_layers"][0] == best
    assert pareto(run_of(rows), rank_by="balanced")["hidden_layers"].to_list() == ["8", "16"]
    assert robust_column(run_of([row("8", 0.9)]), "balanced") == "balanced_accuracy_after_white_box"
    with pytest.raises(InputError, match=r"rank_by \(='size'\): expected one of accuracy, balanced"):
        ranking(run_of(rows), rank_by="size")


def test_rare_classes_make_balanced_accuracy_less_certain() -> None:
    run = run_of([row("8", 0.9)], images=1000)
    run.run["data"] = {"test_class_counts": [500, 500, 0]}
    assert independent_images(run, "balanced_accuracy_after_white_box") == 1000
    run.run["data"] = {"test_class_counts": [990, 10]}
    assert independent_images(run, "balanced_accuracy_after_white_box") == 39  # 4 / (1 / 990 + 1 / 10)
    assert independent_images(run, ROBUST) == 1000


def test_the_front_has_what_nothing_smaller_matches() -> None:
    rows = [row("8", 0.5), row("16", 0.7), row("24", 0.7), row("32", 0.6), row("40", 0.8), row("41", 0.75)]
    assert pareto(run_of(rows))["hidden_layers"].to_list() == ["8", "16", "40"]
    same_size = [row("8", 0.5, parameters=9), row("16", 0.7, parameters=9)]
    assert pareto(run_of(same_size))["hidden_layers"].to_list() == ["16"]


# Depths


def test_depths_are_paired_by_seed_and_corrected() -> None:
    # Depth 1 is better by 0.02 with each seed, though seeds differ by far more than that.
    rows = [row("8", 0.5 + 0.1 * seed + 0.02, seed) for seed in range(6)]
    rows += [row("8-16", 0.5 + 0.1 * seed, seed) for seed in range(6)]
    rows += [row("8-16-32", 0.5 + 0.1 * seed + 0.001 * (-1) ** seed, seed) for seed in range(6)]
    found = compare_depths(run_of(rows))
    assert found.select("depth_a", "depth_b", "seeds").rows() == [(1, 2, 6), (1, 3, 6), (2, 3, 6)]
    assert found["difference"].to_list() == pytest.approx([-0.02, -0.02, 0.0])
    assert found["p"].to_list() == pytest.approx([2 / 64, 2 / 64, 1.0])
    assert found["p_holm"].to_list() == pytest.approx([6 / 64, 6 / 64, 1.0])


def test_a_candidate_that_failed_with_one_seed_is_left_out_with_all() -> None:
    rows = [row("8", 0.9), row("8", 0.9, 1), row("16", 0.5), row("16", 0.1, 1, "dead")]
    assert depth_means(run_of(rows).table, ROBUST).rows() == [(1, 0, 0.9), (1, 1, 0.9)]


def test_one_seed_compares_nothing() -> None:
    assert len(compare_depths(run_of([row("8", 0.9), row("8-16", 0.8)]))) == 0


def test_networks_that_tell_no_classes_apart_come_after_those_that_do() -> None:
    """An answer that does not depend on the image survives every attack with the share of its class."""
    seeing = {"adversarial_test_accuracy": 0.6, "majority_share": 0.2}
    blind = {"adversarial_test_accuracy": 0.23, "majority_share": 0.2}
    rows = [row("8", 0.2) | blind, row("16", 0.04) | seeing, row("24", 0.03) | seeing, row("32", 0.9, 0, "dead")]
    found = ranking(run_of(rows, images=200))
    assert found["hidden_layers"].to_list() == ["16", "24", "8", "32"]
    assert found["clear"].to_list() == [1, 1, 0, 0]
    assert pareto(run_of(rows, images=200))["hidden_layers"].to_list() == ["16"]
    # 0.23 of 20,000 images is clearly above 0.2; and where nobody sees, the order is that of the figures.
    assert ranking(run_of(rows, images=20_000))["hidden_layers"][0] == "8"
    assert ranking(run_of(rows[:1] + rows[3:], images=200))["hidden_layers"].to_list() == ["8", "32"]
