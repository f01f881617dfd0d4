"""The section that tells what was run."""

from __future__ import annotations

import dataclasses

import pytest

from atras.report.sections.experiment import experiment
from atras.results.results import Results
from atras.testing.fake_run import make_run


def test_a_run_that_has_not_finished_says_so(full: Results) -> None:
    begun = Results(full.table, full.metrics, full.history, full.timings, {**full.run, "status": "running"})
    assert "has not finished" in " ".join(experiment(begun).text)
    assert "has not finished" not in " ".join(experiment(full).text)


def test_cautions_stand_in_the_report(full: Results) -> None:
    assert experiment(full).tables == ()
    told = dataclasses.replace(full, run={**full.run, "warnings": ["data: sorted", "dead: 40 (seed 0)"]})
    (table,) = experiment(told).tables
    assert table.rows == (("data: sorted",), ("dead: 40 (seed 0)",))


@pytest.mark.parametrize(
    ("names", "seeds", "words"),
    [
        (("40",), (3,), "1 candidate network of 1 hidden layer, with seed 3, on digits"),
        (("40", "64"), (0, 1), "2 candidate networks of 1 hidden layer, each with 2 seeds, on digits"),
        (("40", "8-16"), (0,), "2 candidate networks of 1 to 2 hidden layers, each with seed 0, on digits"),
    ],
)
def test_numbers_agree_with_their_nouns(names: tuple[str, ...], seeds: tuple[int, ...], words: str) -> None:
    assert experiment(make_run(names=names, seeds=seeds)).text[0].startswith(words)


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, "trained for 3 more on clean and adversarial images, and attacked again."),
        ({"defence": "batch(pgd)"}, "trained for 3 more with the defence batch(pgd), and attacked again."),
        (
            {"defence": "trades(beta=6)"},
            "trained anew from its initial weights for 3 with the defence trades(beta=6), and attacked again.",
        ),
        ({"defence": "of(elsewhere)"}, "trained for 3 more with the defence of(elsewhere), and attacked again."),
        ({"adversarial_epochs": 0}, "away from the predicted label, and not defended."),
        (
            {"target": "random", "adversarial_epochs": 0},
            "towards the target random, and not defended.",
        ),
    ],
)
def test_the_procedure_is_that_of_the_protocol(full: Results, changes: dict[str, object], end: str) -> None:
    run = {**full.run, "protocol": {**full.run["protocol"], **changes}}
    assert experiment(dataclasses.replace(full, run=run)).text[1].endswith(end)


def test_a_stem_that_only_some_candidates_have_is_told_so(full: Results) -> None:
    for names, auto, words in [
        (["24-192"], True, "stem conv2, "),
        (["24-192", "c40"], True, "stem conv2 before dense layers, "),
        (["24-192", "c40"], False, "stem conv2, "),
    ]:
        protocol = {**full.run["protocol"], "candidates": names}
        run = {**full.run, "protocol": protocol, "model": {"stem": "conv2", "stem_auto": auto}}
        assert words in " ".join(experiment(dataclasses.replace(full, run=run)).text)
