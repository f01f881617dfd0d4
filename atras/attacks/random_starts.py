"""Random starting points of attacks, keyed by seed and image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .attack import Draw

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier


def starts(networks: Classifier, images: Tensor, name: str, split: str = "test", first: int = 0) -> Draw:
    """The random starts of an attack on images `first`, `first` + 1, ... of a split: the same for all of a seed.

    Args:
        networks: the members, whose seeds count the draws.
        images: as the attack takes them.
        name: of the attack.
        split: `train` or `test`.
        first: number of the first image.

    Returns:
        From the number of a draw, and the shape of an image's (its own by default), to the draws, uniform in [-1, 1),
        of the images' dtype and on their device: [B, ...] where all members have one seed, otherwise [M, B, ...].
    """

    def draw(number: int, shape: Sequence[int] | None = None) -> Tensor:
        import torch

        from atras.networks import random_starts, seeds_of

        count, *own_shape = images.shape[-4:]
        seeds, rows = seeds_of(networks.members)
        wanted = own_shape if shape is None else shape
        own = torch.stack([random_starts(seed, split, name, number, first, count, wanted) for seed in seeds])
        return (own[0] if len(seeds) == 1 else own[rows]).to(images, non_blocking=True)

    return draw
