"""Scores count class by class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.nn.functional import one_hot

from atras.evaluation import Counter, Survivors


def networks(members: int, classes: int) -> Any:
    return SimpleNamespace(members=range(members), classes=classes, device=torch.device("cpu"))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_balanced_accuracy_is_scikit_learns_whatever_the_chunks() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 60 + [2] * 25 + [3] * 15)[torch.randperm(100, generator=draw)]
    predictions = torch.randint(0, 5, (3, 100), generator=draw)  # class 1 has no image, class 4 neither
    predictions[0] = torch.where(torch.rand(100, generator=draw) < 0.7, labels, predictions[0])
    counter = Counter(networks(3, 5))
    for start in range(0, 100, 30):
        part = slice(start, start + 30)
        counter.add(one_hot(predictions[:, part], 5).float(), labels[part])
    score = counter.score()
    assert score.n == 100
    assert score.correct == (predictions == labels).sum(1).tolist()
    assert score.majority_share == 0.6
    expected = [balanced_accuracy_score(labels, each) for each in predictions]
    assert score.balanced == pytest.approx(expected, abs=1e-12)  # sums of a few float64 in another order


def test_one_answer_has_a_balanced_accuracy_of_one_in_classes() -> None:
    labels = torch.tensor([0] * 90 + [1] * 6 + [2] * 4)
    counter = Counter(networks(1, 3))
    counter.add(one_hot(torch.zeros(1, 100, dtype=torch.int64), 3).float(), labels)
    score = counter.score()
    assert (score.correct, score.one_class) == ([90], [True])
    assert score.balanced == pytest.approx([1 / 3])
    both = score.joined(score)
    assert (both.n, both.correct, both.majority_share) == (200, [180], 0.9)
    assert both.balanced == score.balanced


def test_survivors_are_counted_by_class() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    survivors = Survivors(networks(1, 2))
    first, second = torch.tensor([[True, True, False, True]]), torch.tensor([[True, False, False, True]])
    survivors.add([first, second], labels)
    counter = Counter(networks(1, 2))
    score = survivors.score([counter])
    assert score.correct == [2]
    assert score.balanced == pytest.approx([(1 / 3 + 1) / 2])
