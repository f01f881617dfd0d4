"""A network that others published, written down as layers: its figures are theirs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from atras.data import load, pixels
from atras.engines import LoopEngine
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Network, Spec

FOLDER = Path(os.environ.get("ATRAS_GOLDEN", ""))
pytestmark = pytest.mark.skipif(
    "ATRAS_GOLDEN" not in os.environ or "ATRAS_DATA" not in os.environ,
    reason="ATRAS_GOLDEN and ATRAS_DATA name no folders with a published network and MNIST",
)


def test_fast_is_better_than_free_has_its_published_clean_accuracy() -> None:
    """Wong, Rice, Kolter 2020 (MNIST, FGSM): 98.50 % of the 10,000 test images, by AutoAttack's table."""
    weights = torch.load(FOLDER / "wong_fgsm.pth", weights_only=True, map_location="cpu")
    candidate = Candidate.parse("c16k4s2z1,c32k4s2z1,100")
    network = Network(Spec((1, 28, 28), 10), candidate)
    engine = LoopEngine(network.spec, [Member(candidate, 0)], Protocol(precision="fp32"), torch.device("cpu"))
    engine.set_parameters(0, dict(zip(network.parameter_shapes, weights.values(), strict=True)))
    test = load("mnist", data_dir=os.environ["ATRAS_DATA"], train_size=1, test_size="all").test
    images = pixels(test.images, torch.float32)
    correct = (engine.logits(images)[0].argmax(-1) == test.labels).sum()
    assert (int(correct), len(test)) == (9850, 10_000)
