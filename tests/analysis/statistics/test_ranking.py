"""Ranks hold together, equal candidates are not told apart, and the winner is not made more of than it is."""

from __future__ import annotations

import numpy as np
import pytest

from atras.analysis.statistics import (
    chosen_elsewhere,
    independent_images,
    ordered,
    pairs,
    pareto,
    ranking,
    robust_column,
    told_apart,
)
from atras.errors import InputError
from atras.results import wilson
from made_rows import ROBUST
from made_rows import robust_row as row
from made_rows import robust_run as run_of

# Ranking


def test_ranks_are_those_that_no_difference_excludes() -> None:
    rows = [
        row(name, centre + shift, seed)
        for name, centre in (("8", 0.5), ("16", 0.905), ("24", 0.9))
        for seed, shift in enumerate((-0.01, 0.0, 0.01, -0.005, 0.005))
    ]
    found = ranking(run_of(rows))
    assert found.select("hidden_layers", "rank_low", "rank_high").rows() == [("16", 1, 2), ("24", 1, 2), ("8", 3, 3)]
    assert found["tied"].to_list() == [["24"], ["16"], []]
    assert found["seeds"].to_list() == found["trained"].to_list() == [5, 5, 5]


def test_one_seed_gives_no_ranks_and_two_do() -> None:
    """One seed has no word on how seeds vary: by its images alone, equal candidates are always told apart somewhere."""
    rows = [row(name, centre, seed) for name, centre in (("8", 0.2), ("16", 0.9)) for seed in range(2)]
    one = ranking(run_of([each for each in rows if each["seed"] == 0], images=1000))
    assert one["hidden_layers"].to_list() == ["16", "8"]
    assert [one[name].null_count() for name in ("rank_low", "rank_high", "tied")] == [2, 2, 2]
    two = ranking(run_of(rows, images=1000))
    assert two.select("rank_low", "rank_high").rows() == [(1, 1), (2, 2)]


@pytest.mark.parametrize(("count", "seeds"), [(3, 2), (3, 5), (40, 2), (40, 3), (40, 10)])
def test_equal_candidates_are_told_apart_in_one_run_of_twenty_at_most(
    monkeypatch: pytest.MonkeyPatch, count: int, seeds: int
) -> None:
    """Spreads over seeds differ as those of the paper's candidates on digits do (by a factor of e^0.4): with one seed's
    images alone some pair of 40 equal candidates always is, by Student's t with equal spreads in one run of five."""
    monkeypatch.setattr(pairs, "DRAWS", 300)  # enough for a share of runs, not for one run's ranks
    monkeypatch.setattr(pairs, "LEAST_DRAWS", 300)
    generator, runs = np.random.default_rng(count + seeds), 100
    false = 0
    for _ in range(runs):
        spread = 0.02 * np.exp(generator.normal(0, 0.4, (count, 1)))
        of_images = generator.normal(0, 0.01, (count, 1))  # what two of them differ by because of the images
        accuracies = 0.7 + of_images + spread * generator.normal(size=(count, seeds))
        false += told_apart(accuracies, 2100).any()  # 0.7 of 2,100 images: a standard error of 0.01
    assert false / runs <= 0.06 + 2 * np.sqrt(0.05 * 0.95 / runs)


def test_candidates_that_differ_are_told_apart() -> None:
    generator = np.random.default_rng(1)
    accuracies = np.repeat([0.5, 0.7, 0.9], 4)[:, None] + generator.normal(0, 0.01, (12, 5))
    better = told_apart(accuracies, 2000)
    level = np.repeat([0, 1, 2], 4)
    assert (better == (level[:, None] > level)).all()


def test_images_that_both_share_do_not_keep_them_from_being_told_apart() -> None:
    """Both lose the same hard images, the one a few more: paired image by image that is clear, by shares it is not."""
    generator = np.random.default_rng(2)
    right = np.repeat(generator.random((1, 1, 1000)) < 0.6, 5, axis=1).repeat(2, axis=0)
    right[1] &= generator.random((5, 1000)) > 0.06
    accuracies = right.mean(2)
    assert told_apart(accuracies, 1000, right)[0, 1]
    assert not told_apart(accuracies, 1000).any()


def test_a_failure_widens_its_own_candidate_alone() -> None:
    accuracies = np.array([[0.9, 0.91, 0.9], [0.8, 0.81, 0.8], [0.0, 0.9, 0.9]])
    better = told_apart(accuracies, 0, whole=np.array([True, True, False]))
    assert better[0, 1]
    assert not better[:, 2].any()
    assert not told_apart(accuracies, 0)[0, 1]


def test_test_images_widen_the_interval() -> None:
    rows = [row("8", 0.9, seed) for seed in range(5)]
    found = ranking(run_of(rows, images=100)).row(0, named=True)
    assert (found["low"], found["high"]) == pytest.approx(wilson(90, 100), abs=0.02)
    assert ranking(run_of(rows)).row(0, named=True)["low"] is None  # equal seeds of unknown images are no certainty


def test_the_winner_of_equal_candidates_is_worth_what_all_are() -> None:
    """The best of 40 has the luck of 40 draws; chosen on other seeds it has none."""
    generator = np.random.default_rng(6)
    figures, worth = [], []
    for _ in range(30):
        values = generator.normal(0.7, 0.02, (40, 3))
        run = run_of([row(str(8 + k), float(v), s) for k, own in enumerate(values) for s, v in enumerate(own)])
        figures.append(ordered(run)["mean"][0])
        found = chosen_elsewhere(run)
        assert found is not None
        assert not found.images  # without outcomes
        worth.append(found.accuracy)
    assert np.mean(figures) > 0.72
    # 30 runs of 3 draws of 0.02: three standard errors.
    assert np.mean(worth) == pytest.approx(0.7, abs=3 * 0.02 / np.sqrt(90))
    assert chosen_elsewhere(run_of([row("8", 0.9), row("16", 0.8)])) is None


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
