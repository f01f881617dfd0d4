"""What is measured or shown on a few images of a sorted set is so on images of every class."""

from __future__ import annotations

import torch

from atras.data import Dataset, Split
from atras.engines import StackEngine
from atras.evaluation import EXAMPLES, GAP_IMAGES, Evaluator, Recorder
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec
from atras.testing import make_step_inputs

CPU = torch.device("cpu")


def sorted_evaluator() -> Evaluator:
    images, labels = make_step_inputs(600, (1, 4, 4), classes=3)
    order = labels.argsort(stable=True)
    part = Split(images[order], labels[order])
    engine = StackEngine(Spec((1, 4, 4), 3), [Member(Candidate((6,)), 0)], Protocol(precision="fp32"), CPU)
    return Evaluator(engine, Dataset("sorted", part, part, 3), Protocol(), 64)


def test_fgsm_and_pgd_are_compared_on_every_class() -> None:
    evaluator = sorted_evaluator()
    for score in evaluator.gap().values():
        assert score.n == GAP_IMAGES
        shares = torch.bincount(evaluator.data.train.labels) / 6
        assert (score.class_n - shares).abs().max() < 1


def test_examples_are_of_every_class() -> None:
    evaluator = sorted_evaluator()
    engine = evaluator.networks
    recorder = Recorder(engine.members, engine.spec, evaluator.data, CPU, "stack/cpu", 0)  # type: ignore[attr-defined]
    evaluator.attack_test(on_examples=recorder.show)
    assert len(recorder.rows.examples) == EXAMPLES
    assert [row["label"] for row in recorder.rows.examples] == [0, 0, 0, 1, 1, 1, 2, 2]
    for row in recorder.rows.examples:
        assert row["label"] == evaluator.data.test.labels[row["image"]]  # type: ignore[call-overload]
