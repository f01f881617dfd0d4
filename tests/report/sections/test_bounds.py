"""Norms and epsilons in words: steps of 1/255 are spelled out, round decimals stay as they were meant."""

from __future__ import annotations

import pytest

from atras.report.sections.bounds import ball_text, epsilon_axis, epsilon_text


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(8 / 255, "8/255"), (0.0314, "8/255"), (0.0627, "16/255"), (0.05, "0.05"), (0.2, "0.2"), (1.0, "1")],
)
def test_steps_of_255_are_spelled_out(epsilon: float, text: str) -> None:
    assert epsilon_text(epsilon) == text


def test_an_axis_names_norm_and_unit_and_its_ticks_are_the_steps() -> None:
    axis = epsilon_axis("linf", [0.0, 4 / 255, 0.0314])
    assert axis.label == "epsilon: L-infinity, pixels in [0, 1]"
    assert [text for _, text in axis.ticks] == ["0", "4/255", "8/255"]
    assert [text for _, text in epsilon_axis("linf", [0.0, 0.05, 0.1]).ticks][:2] == ["0", "0.02"]
    assert ball_text("l2", 0.5) == "L2 0.5"
