"""Many comparisons at once keep their promise of few false alarms, and find what is there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from atras.analysis.statistics import Interval, Mean, beyond, equivalent, holm, lead, max_t, p_text, sample_mean


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.9: times 4, 3, 2, 1, never falling, at most 1.
    assert holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("seeds", [1, 2, 5, 9])
def test_differences_of_one_sign_have_the_least_p_value(seeds: int) -> None:
    own, corrected = max_t(0.1 * np.arange(1.0, seeds + 1)[:, None])
    assert own == corrected == [2.0 ** (1 - seeds)]


def test_p_values_agree_with_scipy() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, (9, 1))
    found = stats.permutation_test(
        (values[:, 0],), lambda x, axis=-1: np.abs(np.sum(x, axis=axis)), permutation_type="samples",
        alternative="greater", n_resamples=np.inf,
    )  # fmt: skip
    assert max_t(values)[0][0] == pytest.approx(found.pvalue, abs=1e-12)


def test_many_seeds_are_flipped_at_random_to_the_same_p_value() -> None:
    values = np.random.default_rng(2).normal(0.25, 1, (18, 1))
    signs = np.array(np.meshgrid(*[[1, -1]] * 18, indexing="ij"), dtype=np.int8).reshape(18, -1)
    exact = (np.abs(signs.T @ values) >= abs(values.sum()) - 1e-12).mean()
    # 10,000 draws: three standard deviations of a share.
    assert max_t(values)[0][0] == pytest.approx(exact, abs=3 * (exact * (1 - exact) / 10_000) ** 0.5)


def test_no_difference_at_all_is_p_one() -> None:
    assert max_t(np.zeros((6, 2))) == ([1.0, 1.0], [1.0, 1.0])
    assert max_t(np.zeros((6, 0))) == ([], [])


def test_six_seeds_tell_what_is_clear_whatever_the_number_of_comparisons() -> None:
    """Holm multiplies the least p value, 2^-5, by 28, so that it finds nothing with six seeds, nor with ten."""
    depths = np.random.default_rng(3).normal(0, 0.01, (6, 8)) + np.arange(8)
    first, second = np.triu_indices(8, 1)
    own, corrected = max_t(depths[:, second] - depths[:, first])
    assert max(corrected) == pytest.approx(2**-5)
    assert min(holm(own)) > 0.05
    assert min(max_t(depths[:5, second] - depths[:5, first])[1]) == 2**-4  # five seeds cannot show anything


def test_false_alarms_among_many_comparisons_are_rare() -> None:
    generator, first, second = np.random.default_rng(4), *np.triu_indices(8, 1)
    false, partly, runs = 0, 0, 500
    for _ in range(runs):
        depths = generator.normal(size=(8, 8)) * generator.uniform(0.5, 2, 8)
        false += min(max_t(depths[:, second] - depths[:, first])[1]) <= 0.05
        shifted = depths + 50.0 * (np.arange(8) == 0)  # one depth differs from all others, which are equal
        partly += (
            min(p for p, a in zip(max_t(shifted[:, second] - shifted[:, first])[1], first, strict=True) if a) <= 0.05
        )
    spare = 2 * np.sqrt(0.05 * 0.95 / runs)
    assert false / runs <= 0.06 + spare
    assert partly / runs <= 0.06 + spare


def test_the_best_of_several_equal_ones_is_no_defeat() -> None:
    """One depth against the best of seven equal ones, chosen and tested on the same five seeds: `fails` in vain in 10 %
    by the bootstrap with Bonferroni's correction of both ends."""
    generator, runs = np.random.default_rng(5), 1500
    verdicts = []
    for _ in range(runs):
        depths = generator.normal(size=(5, 8))
        differences = [sample_mean((depths[:, 0] - depths[:, other]).tolist()) for other in range(1, 8)]
        verdicts.append(beyond(lead(differences), 1))
    assert verdicts.count("fails") / runs <= 0.025 + 0.01
    assert verdicts.count("holds") / runs <= 0.025 + 0.01


def test_a_lead_must_hold_over_the_best_other_and_is_known_to_fail_by_one() -> None:
    clear = [sample_mean([0.3 + d, 0.31 + d, 0.29 + d]) for d in (0.0, 0.1)]
    assert beyond(lead(clear), 1) == "holds"
    assert lead(clear).mean == pytest.approx(0.3)
    behind = [*clear, sample_mean([-0.3, -0.31, -0.29])]
    assert beyond(lead(behind), 1) == "fails"
    assert lead([Mean(0.3)]) == (0.3, None, None)
    assert beyond(lead([Mean(0.3)]), 1) == "unresolved"


def test_the_stated_figure_is_met_within_the_margin_alone() -> None:
    assert equivalent(Interval(0.1, 0.095, 0.105), 0.1, 0.01) == "holds"
    assert equivalent(Interval(0.1, -0.4, 0.6), 0.1, 0.01) == "unresolved"  # a wide interval proves nothing
    assert equivalent(Interval(0.2, 0.15, 0.25), 0.1, 0.01) == "fails"
    assert equivalent(Interval(0.1, None, None), 0.1, 0.01) == equivalent(None, 0.1, 0.01) == "unresolved"


def test_p_values_that_can_be_no_smaller_are_said_to_be_less() -> None:
    assert p_text(1e-9) == "<0.0001"
    assert p_text(2**-5, 2**-5) == "<0.0312"
    assert p_text(0.04) == "0.0400"
    assert p_text(None) == "-"
