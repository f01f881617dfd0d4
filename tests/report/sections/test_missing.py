"""Sections for which a run recorded nothing name the option that records it."""

from __future__ import annotations

import pytest

from atras import report
from atras.report.registry import make_section
from atras.results.results import Results
from atras.testing.fake_run import make_run


def text_of(results: Results, key: str) -> str:
    return " ".join(make_section(key, results).text)


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("attacks", "--attack fgsm --attack pgd"),
        ("epsilons", "--epsilons"),
        ("transfer", "--transfer"),
        ("pictures", "no network of the first seed"),
        ("recovery", "--dataset mnist"),
    ],
)
def test_what_was_not_recorded_is_named_with_its_option(key: str, option: str) -> None:
    assert option in text_of(make_run(complete=False), key)


def test_a_complete_run_misses_nothing(full: Results) -> None:
    texts = [text_of(full, key) for key in ("attacks", "epsilons", "transfer", "pictures")]
    assert not [text for text in texts if "--" in text]
    names = set(report.figures(full))
    assert {"epsilons-fgsm-trained", "epsilons-pgd-defended", "attacks", "transfer-fgsm-before"} <= names
