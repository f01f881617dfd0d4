"""The comparison of robust training with textbook loops: it times what agrees, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import robust_training
from atras.engines import why_not

pytestmark = pytest.mark.skipif(
    bool(why_not(torch.device("cpu"))), reason=f"engine fused: {why_not(torch.device('cpu'))}"
)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (700, 12, 12), dtype=np.uint8), draw.integers(0, 10, 700)
    np.savez(tmp_path / "made.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    line = f"--dataset {tmp_path}/made.npz --every 18 --steps 1 --rounds 2 --attack-steps 2 --precision fp32"
    return [*line.split(), "--json", str(tmp_path / "out.json")]


def test_both_defences_agree_with_their_loops_and_are_timed(arguments: list[str]) -> None:
    assert robust_training.main(arguments) == 0
    results = json.loads(Path(arguments[-1]).read_text())
    for name in robust_training.DEFENCES_TIMED:
        assert results[name]["apart"] <= robust_training.AGREE["fp32"]
        assert {name: len(each) for name, each in results[name]["seconds"].items()} == {
            "atras": 2, "loop": 2, "channels-last": 2,
        }  # fmt: skip


@pytest.mark.parametrize("name", robust_training.DEFENCES_TIMED)
def test_a_loop_that_trains_on_other_labels_is_not_timed(
    name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = getattr(robust_training.Loop, name)
    monkeypatch.setattr(robust_training.Loop, name, lambda self, net, x, y, *rest: usual(self, net, x, 9 - y, *rest))
    assert robust_training.main([*arguments, "--defence", name]) == 1
    assert "seconds" not in json.loads(Path(arguments[-1]).read_text())[name]
