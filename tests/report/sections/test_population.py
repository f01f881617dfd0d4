"""The candidates and members that the sections show."""

from __future__ import annotations

import gc
import weakref

from atras.report.sections.population import RANK, entries, evenly_chosen, once_per_run
from atras.results.schemas import STATUSES
from atras.testing.fake_run import make_run


def test_each_status_ranks() -> None:
    assert set(RANK) == set(STATUSES)


def test_a_value_is_computed_once_for_each_run_and_does_not_keep_it() -> None:
    asked = []
    counts = once_per_run(lambda results: asked.append(results.dataset) or len(results.table))
    first, second = make_run(seeds=(0,)), make_run(dataset="mnist")
    assert [counts(run) for run in (first, second, first)] == [5, 10, 5]
    assert asked == ["digits", "mnist"]
    assert entries(first) is entries(first)
    run = weakref.ref(first)
    del first
    gc.collect()
    assert run() is None


def test_chosen_names_hold_both_ends() -> None:
    assert evenly_chosen("abcdefg", 3) == ["a", "d", "g"]
    assert evenly_chosen("ab", 3) == ["a", "b"]
