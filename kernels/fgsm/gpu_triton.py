"""Op fgsm on a GPU: a shared image is loaded once for a group of members."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .gpu_kernels import apply_signs_kernel, fgsm_kernel, totals_kernel


class Tile(NamedTuple):
    """What a program computes: so many pixels, a power of two up to 16,384, of so many members, in so many warps."""

    pixels: int
    members: int
    warps: int


TILES = {"shared": Tile(1024, 4, 8), "own": Tile(2048, 1, 8)}
"""By whether members share images that are read too: 64 bytes of each thread are then on their way, 16 at a time and
next to its neighbours'. Among the fastest of a dozen on an H100: 1.03 to 1.24 times the bandwidth of a copy."""
TOTALS_BLOCK = 256
OPTIONS = {"enable_fp_fusion": False}


def fgsm(
    images: Tensor,
    gradients: Tensor,
    epsilon: float | Tensor,
    low: float,
    high: float,
    direction: int,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `dispatch._Fgsm`: images [1 or M, ...], gradients [M, ...]; dtype None asks for int8 signs."""
    images, gradients = images.contiguous(), gradients.contiguous()
    values = torch.empty_like(gradients, dtype=dtype or torch.int8)
    shared = len(images) == 1
    tile, tiles, programs = _work(gradients, "shared" if shared and dtype is not None else "own")
    members, pixels = len(gradients), gradients.shape[1:].numel()
    if not programs:
        return values, *torch.zeros(2, members, dtype=torch.int64, device=gradients.device)
    # Each program writes its own counts: integers, summed in any order, and nothing to clear beforehand.
    counts = torch.empty(members, tiles, dtype=torch.int32, device=gradients.device)
    totals = torch.empty(2, members, dtype=torch.int64, device=gradients.device)
    tensors, (common, epsilons) = (images, gradients, values, counts), _each(epsilon, gradients)
    numbers = (common, low, high, direction, epsilons)
    kind = (shared, dtype is None, isinstance(epsilon, Tensor), tile.members, tile.pixels)
    with torch.cuda.device_of(gradients):
        fgsm_kernel[(programs,)](*tensors, members, pixels, tiles, *numbers, *kind, num_warps=tile.warps, **OPTIONS)
        totals_kernel[(members,)](counts, totals, tiles, TOTALS_BLOCK, num_warps=4, **OPTIONS)
    return values, totals[0], totals[1]


def apply_signs(
    images: Tensor, signs: Tensor, epsilon: float | Tensor, low: float, high: float, dtype: torch.dtype
) -> Tensor:
    """See `dispatch._ApplySigns`: images [1 or M, ...], signs [M, ...]."""
    images, signs = images.contiguous(), signs.contiguous()
    values = torch.empty_like(signs, dtype=dtype)
    shared = len(images) == 1
    tile, _, programs = _work(signs, "shared" if shared else "own")
    if programs:
        common, epsilons = _each(epsilon, signs)
        sizes, numbers = (len(signs), signs.shape[1:].numel()), (common, low, high, epsilons)
        kind = (shared, isinstance(epsilon, Tensor), tile.members, tile.pixels)
        with torch.cuda.device_of(signs):
            apply_signs_kernel[(programs,)](
                images, signs, values, *sizes, *numbers, *kind, num_warps=tile.warps, **OPTIONS
            )
    return values


def _each(epsilon: float | Tensor, beside: Tensor) -> tuple[float, Tensor]:
    """The number that all members have, and where each one's own lies; the other of the two is not read."""
    if not isinstance(epsilon, Tensor):
        return epsilon, beside
    return 0.0, epsilon.to(beside.device, torch.float64).contiguous()


def _work(directions: Tensor, kind: str) -> tuple[Tile, int, int]:
    """Tile, tiles of a member, and programs."""
    members, pixels = len(directions), directions.shape[1:].numel()
    tile = TILES[kind]
    tile = tile._replace(members=min(tile.members, triton.next_power_of_2(members)))
    tiles = triton.cdiv(pixels, tile.pixels)
    return tile, tiles, tiles * triton.cdiv(members, tile.members)
