"""Random signs: the size of an attack's change without its aim."""

from __future__ import annotations

import torch

from atras.attacks import FGSM, RandomSigns
from stand_ins import SHAPE, Linear


def test_every_pixel_moves_by_epsilon_and_costs_less_than_an_aimed_change() -> None:
    torch.manual_seed(0)
    networks = Linear(3, 4)
    images = 0.3 + 0.4 * torch.rand(64, *SHAPE, dtype=torch.float64)
    labels = networks.logits(images).argmax(-1)
    found = RandomSigns(0.1)(networks, images, labels)
    change = found.clipped - images
    torch.testing.assert_close(change.abs(), torch.full_like(change, 0.1))
    assert 0.45 < (change > 0).double().mean() < 0.55
    assert torch.equal(found.clipped, RandomSigns(0.1)(networks, images, labels).clipped)
    aimed = FGSM(0.1)(networks, images, labels)
    assert (found.success(networks, labels).sum(1) < aimed.success(networks, labels).sum(1)).all()
