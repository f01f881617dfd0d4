"""What is drawn from a set does not depend on how the set is sorted."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from atras.data import of_each_class, stratified

SORTED = torch.arange(5).repeat_interleave(40)


@pytest.mark.parametrize("labels", [SORTED, SORTED.flip(0), torch.arange(200) % 5])
@pytest.mark.parametrize("count", [0, 1, 7, 40, 199, 200])
def test_every_class_has_its_share(labels: torch.Tensor, count: int) -> None:
    chosen = stratified(labels, count, "hold-out")
    assert len(chosen) == count
    assert torch.equal(chosen, chosen.unique())
    counts = torch.bincount(labels[chosen], minlength=5)
    assert (counts - count / 5).abs().max() < 1


def test_uneven_classes_have_their_shares() -> None:
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    counts = torch.bincount(labels[stratified(labels, 100, "hold-out")])
    assert counts.tolist() == [90, 9, 1]


def test_the_draw_within_a_class_is_random_and_keyed() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    draws = [stratified(labels, 100, what) for what in ("hold-out", "hold-out", "train")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert 400 < draws[0].float().mean() < 600  # a mean of 100 uniform numbers up to 1,000: 29 is its deviation
    assert draws[0].diff().unique().numel() > 5


def test_another_process_draws_the_same() -> None:
    program = (
        "import torch; from atras.data import stratified; torch.manual_seed(5); "
        "print(stratified(torch.arange(5).repeat_interleave(40), 40, 'hold-out').tolist())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(stratified(SORTED, 40, "hold-out").tolist())


def test_the_first_of_every_class_in_turn() -> None:
    assert of_each_class(SORTED, 7).tolist() == [0, 1, 40, 41, 80, 120, 160]
    assert of_each_class(torch.tensor([3, 3, 3, 1]), 2).tolist() == [0, 3]
    assert of_each_class(torch.tensor([2, 0]), 8).tolist() == [0, 1]
