"""One figure is one text, however its mean was summed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from atras.report.charts import number, rounded
from atras.rounding import counted, decimals


@pytest.mark.parametrize(("figure", "places", "text"), [
    (0.0775, 3, "0.078"), (-0.0775, 3, "-0.078"), (0.0125, 3, "0.013"), (2.5, 0, "3"), (1e-9, 3, "0.000"),
    (-1e-9, 3, "0.000"), (12345678901.5, 1, "12345678901.5"),
])  # fmt: skip
def test_halves_go_away_from_zero_and_noise_does_not_count(figure: float, places: int, text: str) -> None:
    for noise in (figure, np.nextafter(figure, -np.inf), np.nextafter(figure, np.inf)):
        assert decimals(float(noise), places) == text


def test_a_share_of_counts_has_one_text_however_it_was_summed() -> None:
    shares = [0.12, 0.095, 0.07, 0.025]
    ways = {rounded(sum(shares) / 4), rounded(float(np.mean(shares))), rounded(sum(s / 4 for s in shares[::-1])),
            rounded(31 / 400), rounded(np.nextafter(31 / 400, 0)), rounded(np.nextafter(31 / 400, 1))}  # fmt: skip
    assert ways == {"0.078"}
    assert number(np.nextafter(0.00005, 0)) == number(np.nextafter(0.00005, 1)) == "0.0001"


def test_a_sign_is_written_where_it_is_asked_for() -> None:
    assert [decimals(v, 2, signed=True) for v in (0.125, -0.125, 0.0)] == ["+0.13", "-0.13", "+0.00"]


@pytest.mark.parametrize(
    ("value", "text"), [(math.inf, "inf"), (-math.inf, "-inf"), (math.nan, "nan"), (2e25, f"{2e25:.3f}")]
)
def test_what_has_no_decimals_is_told_too(value: float, text: str) -> None:
    assert decimals(value, 3) == text


@pytest.mark.parametrize(("count", "words"), [(0, "0 seeds"), (1, "1 seed"), (2, "2 seeds")])
def test_a_number_agrees_with_its_noun(count: int, words: str) -> None:
    assert counted(count, "seed") == words
