"""Rows of the examples: how many pictures a run keeps."""

from __future__ import annotations

import pytest

from atras.evaluation import examples_kept, shown_attacks
from atras.experiment import Protocol


@pytest.mark.parametrize(
    ("candidates", "shape", "images"),
    [
        (40, (1, 28, 28), 8),
        (28, (3, 256, 256), 8),
        (29, (3, 256, 256), 7),
        (227, (3, 256, 256), 1),
        (228, (3, 256, 256), 0),
    ],
)
def test_all_pictures_of_a_run_stay_below_a_quarter_of_a_gibibyte(
    candidates: int, shape: tuple[int, int, int], images: int
) -> None:
    assert examples_kept(candidates, shape) == images
    assert examples_kept(candidates, shape, attacks=300) == 0 or images == 8


def test_pictures_are_of_each_attack_on_the_network_itself_once() -> None:
    protocol = Protocol(
        attacks=("fgsm", "pgd", "apgd(norm=l2)", "pgd(epsilon=0.2)", "pgd(surrogate=independent)"), epsilons=(0.01, 0.1)
    )
    shown = [(attack.spec.attack, attack.epsilon) for attack in shown_attacks(protocol)]
    assert shown == [("fgsm", 0.05), ("pgd", 0.05), ("apgd(norm=l2)", 0.1), ("pgd", 0.2)]
