"""The benchmark of ImageNet's shape, in small: the set is learnable, streamed, and told of."""

from __future__ import annotations

import json

import numpy as np
import pytest

import imagenet_shape
from atras.data import load
from atras.planning import streaming


def test_a_small_set_is_made_trained_on_and_told_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(streaming, "LEAST", 0)
    monkeypatch.setattr(streaming, "SHARE", 10**12)
    monkeypatch.setattr(imagenet_shape, "SIDE", 16)
    monkeypatch.setattr(imagenet_shape, "PIECE", 7)
    sizes = ["--classes", "5", "--train", "1500", "--test", "40", "--hidden", "32", "8-16", "--stem", "none"]
    where = ["--out", str(tmp_path), "--json", str(tmp_path / "told.json"), "--device", "cpu"]
    assert imagenet_shape.main([*sizes, *where]) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["streamed"]
    assert told["chunk"] == 128
    assert set(told["phases"]) == {
        "train-trained", "attack-trained", "adversarial-defended", "evaluate-defended", "attack-defended",
    }  # fmt: skip
    assert max(clean for _, clean, _ in told["accuracies"]) > 0.5  # of five classes
    assert "extrapolated" in capsys.readouterr().out
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_its_images_are_their_class_under_noise(tmp_path):
    imagenet_shape.write_set(tmp_path / "set.npz", 4, {"train": 40, "test": 8})
    data = load(str(tmp_path / "set.npz"), train_size="all", test_size="all")
    assert data.image_shape == (3, 64, 64)
    assert np.bincount(data.train.labels).tolist() == [10] * 4
    cells = data.train.images.float().unflatten(-1, (8, 8)).unflatten(-3, (8, 8)).mean((-1, -3)).flatten(1)
    means = [cells[data.train.labels == each].mean(0) for each in range(4)]
    for each in range(4):
        own = (cells[data.train.labels == each] - means[each]).norm(dim=1)
        other = (cells[data.train.labels == each] - means[each - 1]).norm(dim=1)
        assert (own < 0.3 * other).all()


@pytest.mark.parametrize("streamed", [True, False])
def test_the_table_extrapolates_by_the_training_images(streamed):
    told = {
        "phases": {"train-trained": 36.0}, "images": {"train": 1_281_167, "test": 1}, "streamed": streamed, "chunk": 1,
        "peak_mib": 1.0, "predicted_mib": 2.0, "cap_mib": 3.0, "processor_seconds": 3600.0, "accuracies": [],
    }  # fmt: skip
    lines = imagenet_shape.table(told).splitlines()
    assert lines[1].split() == ["train-trained", "36.0", "0.01"]
    assert lines[3].split()[-2:] == ["3600.0", "1.00"]
    assert lines[4].startswith("streamed" if streamed else "resident")
