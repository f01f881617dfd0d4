"""Noisy patterns that small networks learn in part, and the networks and protocol that tests of training have."""

from __future__ import annotations

import torch

from atras.data import Dataset, Split
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec

PROTOCOL = Protocol(precision="fp64", epochs=3, adversarial_epochs=2, batch_size=16, learning_rate=0.01, epsilon=0.1)
SPEC = Spec((1, 6, 6), 4, activation="tanh")
MEMBERS = [Member(Candidate((5, 9)), 0), Member(Candidate((12, 3)), 7), Member(Candidate((5, 9)), 7)]


def pictures(n: int, seed: int) -> Split:
    """Four noisy patterns that a small network learns in part."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=draw)
    patterns = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    noisy = 0.5 * patterns[labels] + 0.5 * torch.rand(n, 1, 6, 6, generator=draw)
    return Split((noisy * 255).to(torch.uint8), labels)


DATA = Dataset("patterns", pictures(50, 1), pictures(40, 2), 4)
