"""The only source of randomness: every draw is counted by what it is for, never taken from shared state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def stable_key(*parts: int | str) -> int:
    """A signed 64-bit number that depends on the parts alone: the same on every machine, Python and day.

    Args:
        parts: the type of each counts too: 1 and "1" differ.

    Source: BLAKE2b with 8 bytes (RFC 7693); docs/protocol.md, "Randomness".
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator keyed by the parts."""
    return torch.Generator(device="cpu").manual_seed(stable_key(*parts))


def initial_weights(seed: int, candidate: str) -> torch.Generator:
    """The generator that draws the initial weights of the candidate of this name, at its natural widths."""
    return generator(seed, candidate, "init")


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
    return torch.randperm(n, generator=generator(seed, phase, epoch, "order"), dtype=torch.int64, device="cpu")


def draw_order(what: str, n: int) -> Tensor:
    """Random order in which images of a data set are drawn for a purpose, whatever the seed.

    Args:
        what: the purpose, such as `hold-out`.
        n: number of images.

    Returns:
        int64 [n] on the CPU.
    """
    return torch.randperm(n, generator=generator(what, "draw"), dtype=torch.int64, device="cpu")


def dropout_key(seed: int, candidate: str, phase: str) -> int:
    """The 64-bit key of a member's dropout masks in one phase; step and layer are counted inside the kernel."""
    return stable_key(seed, candidate, phase, "dropout")


def image_bits(seed: int, phase: str, epoch: int, what: str, images: Tensor) -> Tensor:
    """63 random bits for each image, the same for all candidates of a seed, whatever other images are beside it.

    Args:
        seed: the member's seed.
        phase, epoch: as in `permutation`.
        what: purpose of the draw, which keys it.
        images: int64 [...], numbers of the images.

    Returns:
        int64 [...] from 0 to 2**63 - 1, on the device of `images`.

    Source: SplitMix64; Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), figure 17.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        key = np.array(stable_key(seed, phase, epoch, what)).astype(np.uint64)
        z = key + (images.cpu().numpy().astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = (z ^ (z >> np.uint64(31))) >> np.uint64(1)
    return torch.from_numpy(bits.astype(np.int64)).to(images.device)


def random_targets(seed: int, split: str, labels: Tensor, classes: Tensor) -> Tensor:
    """A class other than the true one for every image, the same for all candidates of a seed.

    Args:
        seed: the member's seed.
        split: `train` or `test`.
        labels: int64 [N], the true classes.
        classes: int64 [K], those that may be aimed at, ascending, at least 2.

    Returns:
        int64 [N] on the device of `labels`.
    """
    draw = generator(seed, split, "target")
    shift = torch.randint(1, len(classes), labels.shape, generator=draw, dtype=torch.int64, device="cpu")
    classes = classes.to(labels.device)
    place = torch.searchsorted(classes, labels)
    return classes[(place + shift.to(labels.device)) % len(classes)]


def random_starts(
    seed: int, split: str, attack: str, restart: int, first: int, count: int, shape: Sequence[int]
) -> Tensor:
    """Random starts of an attack on some images, the same for all candidates of a seed.

    Args:
        seed: the member's seed.
        split: `train` or `test`.
        attack: its name.
        restart: number of the restart, from 0.
        first, count: numbers of the images; each has a generator of its own, so any division into chunks agrees.
        shape: (C, H, W).

    Returns:
        float32 [count, C, H, W] on the CPU, uniform in [-1, 1).
    """
    keys = ((seed, split, attack, restart, image, "start") for image in range(first, first + count))
    draws = [_uniform(shape, generator(*key)) for key in keys]
    return torch.stack(draws) if draws else torch.empty(0, *shape, dtype=torch.float32, device="cpu")


def batch_starts(
    seed: int, epoch: int, batch: int, attack: str, restart: int, size: int, shape: Sequence[int]
) -> Tensor:
    """Random starts of an attack in a batch of adversarial training.

    Args:
        seed, attack, restart, shape: as in `random_starts`.
        epoch, batch: of the adversarial phase, from 1, and of the epoch, from 0.
        size: images of the batch, clean ones included.

    Returns:
        float32 [size, C, H, W] on the CPU, uniform in [-1, 1).
    """
    draw = generator(seed, "adversarial", epoch, batch, attack, restart, "start")
    return _uniform((size, *shape), draw)


def _uniform(shape: Sequence[int], draw: torch.Generator) -> Tensor:
    """float32 on the CPU, uniform in [-1, 1)."""
    return 2 * torch.rand(*shape, generator=draw, dtype=torch.float32, device="cpu") - 1
