"""Scales and figures as text."""

from __future__ import annotations

import pytest

from atras.report.charts import scales


@pytest.mark.parametrize("values", [[0.2, 0.9], [0.5], [], [-0.03, 0.0], [0, 1000], [0.7101, 0.7102], [-5.0, None]])
def test_linear_ticks_are_few_round_and_around_the_values(values: list[float | None]) -> None:
    axis = scales.linear("x", values)
    known = [value for value in values if value is not None]
    # Ends are multiples of the step up to rounding.
    assert all(-1e-9 <= axis.share(value) <= 1 + 1e-9 for value in known)
    assert 2 <= len(axis.ticks) <= scales.MAX_TICKS + 1
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)


@pytest.mark.parametrize("values", [[3000], [100, 10**6], [8290, 9000], [1, 10**9]])
def test_logarithmic_ticks_are_few_and_around_the_values(values: list[float]) -> None:
    axis = scales.logarithmic("x", values)
    assert all(0 < axis.share(value) < 1 for value in values)
    assert 1 <= len(axis.ticks) <= scales.MAX_TICKS


@pytest.mark.parametrize(
    ("count", "text"), [(5, "5"), (999, "999"), (1000, "1k"), (8170, "8170"), (50_000, "50k"), (1_400_000, "1.4M")]
)
def test_counts_are_short(count: float, text: str) -> None:
    assert scales.short(count) == text
