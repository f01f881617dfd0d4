"""The only source of randomness: every draw is counted by what it is for, never taken from shared state."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .space import Candidate


def stable_key(*parts: int | str) -> int:
    """A signed 64-bit number that depends on the parts alone: the same on every machine, Python and day."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator keyed by the parts."""
    return torch.Generator().manual_seed(stable_key(*parts))


def initial_weights(seed: int, candidate: Candidate) -> torch.Generator:
    """The generator that draws a candidate's initial weights, at its natural widths."""
    return generator(seed, candidate.name, "init")


def permutation(seed: int, phase: str, epoch: int, n: int) -> Tensor:
    """Order of the images in one epoch, shared by all candidates of a seed.

    Args:
        seed: the member's seed.
        phase: `train` or `adversarial`.
        epoch: from 1.
        n: number of images.

    Returns:
        int64 [n] on the CPU.
    """
    return torch.randperm(n, generator=generator(seed, phase, epoch, "order"))


def dropout_key(seed: int, candidate: Candidate, phase: str) -> int:
    """The 64-bit key of a member's dropout masks in one phase; step and layer are counted inside the kernel."""
    return stable_key(seed, candidate.name, phase, "dropout")


def random_targets(seed: int, split: str, labels: Tensor, classes: int) -> Tensor:
    """A class other than the true one for every image, the same for all candidates of a seed.

    Args:
        seed: the member's seed.
        split: `train` or `test`.
        labels: int64 [N], the true classes.
        classes: how many there are, at least 2.

    Returns:
        int64 [N] on the device of `labels`.
    """
    shift = torch.randint(1, classes, labels.shape, generator=generator(seed, split, "target"))
    return (labels + shift.to(labels.device)) % classes
