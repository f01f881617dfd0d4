"""The first and the last launch of a training step: a batch's images and labels, and the counters."""

from __future__ import annotations

from typing import NamedTuple

import triton
from torch import Tensor

from .gpu_kernels_gather import bump_kernel, gather_kernel

BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


class Source(NamedTuple):
    """Images to take from.

    Args:
        images: uint8 or float32 [N, C, H, W], or [M, N, C, H, W], each member its own.
        signs: int8 [M, N, C, H, W] of the adversarial copies, or None.
        epsilons: float64 [M], strengths of the copies; None where there are none.
        labels: int64 [N]; None where they are not wanted.
    """

    images: Tensor
    signs: Tensor | None = None
    epsilons: Tensor | None = None
    labels: Tensor | None = None


class Order(NamedTuple):
    """Which images are taken: `rows` int64 [K, n], `row_of` int64 [M], and the counters that say where to go on.

    The counters are int64 [3]: batch, step of the dropout masks, n.
    """

    rows: Tensor
    row_of: Tensor
    counters: Tensor


def launch_gather(
    source: Source,
    values: Tensor,
    labels: Tensor,
    *,
    image_shape: tuple[int, int, int],
    planar: bool,
    stored: int,
    order: Order | None = None,
    batch: int = 0,
    start: int = 0,
) -> None:
    """Write the images [sets, rows, stored] of a batch, and their labels [sets, rows].

    Without an order, rows past the last image are filled with that one.

    Args:
        source: what to take from.
        values: where the images go, as rows of `stored` numbers, zeros past their pixels.
        labels: int64 [sets, rows], written where the source has labels; its shape says how much is taken.
        image_shape: (C, H, W).
        planar: whether pixels keep torch's order of channels, rows, columns; else channels lie innermost.
        stored: numbers of a row.
        order: which images; None for those from `start` on.
        batch: images of a whole batch: where the next one begins.
        start: the first image where there is no order.
    """
    images, signs, epsilons, all_labels = source
    sets, rows = labels.shape
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    sizes = (images.shape[-4], pixels, 1 if planar else image_shape[0], stored, rows, batch, start)
    chosen = (labels, labels, labels) if order is None else order
    copies = (images if signs is None else signs, images if epsilons is None else epsilons)
    given = (images, *copies, labels if all_labels is None else all_labels)
    kind = (order is not None, images.ndim == 5, signs is not None, all_labels is not None, BLOCK)
    grid = (rows * sets, triton.cdiv(stored, BLOCK))  # only the first may be above 65,535
    gather_kernel[grid](*given, *chosen, values, labels, *sizes, *kind, **OPTIONS)


def launch_bump(counters: Tensor, steps: Tensor) -> None:
    """Count a batch, a step of the masks and, for each member, an update."""
    bump_kernel[(triton.cdiv(len(steps), BLOCK),)](counters, steps, len(steps), BLOCK, **OPTIONS)
