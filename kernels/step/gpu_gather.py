"""The first and the last launch of a training step: a batch's images and labels, and the counters."""

# No `from __future__ import annotations`: Triton reads the annotations, and a float64 one keeps epsilon exact.
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..fgsm.gpu_triton import step_and_clamp, to_pixels

BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


class Source(NamedTuple):
    """Images to take from.

    Args:
        images: uint8 or float32 [N, C, H, W], or [M, N, C, H, W], each member its own.
        signs: int8 [M, N, C, H, W] of the adversarial copies, or None.
        epsilon: strength of the copies.
        labels: int64 [N]; None where they are not wanted.
    """

    images: Tensor
    signs: Tensor | None = None
    epsilon: float = 0.0
    labels: Tensor | None = None


class Order(NamedTuple):
    """Which images are taken: `rows` int64 [K, n], `row_of` int64 [M], and the counters that say where to go on.

    The counters are int64 [3]: batch, step of the dropout masks, n.
    """

    rows: Tensor
    row_of: Tensor
    counters: Tensor


@triton.jit(do_not_specialize=["count", "rows", "batch", "start"])
def gather_kernel(
    p_images,
    p_signs,
    p_all_labels,
    p_order,
    p_row_of,
    p_counters,
    p_values,
    p_labels,
    count,
    pixels,
    channels,
    stored,
    rows,
    batch,
    start,
    epsilon: tl.float64,
    ORDERED: tl.constexpr,
    OWN: tl.constexpr,
    SIGNS: tl.constexpr,
    LABELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_row, i_set = tl.program_id(1), tl.program_id(2).to(tl.int64)
    if ORDERED:
        at = tl.load(p_row_of + i_set) * tl.load(p_counters + 2) + tl.load(p_counters) * batch + i_row
        index = tl.load(p_order + at)
    else:
        index = (start + i_row).to(tl.int64)
    base = index
    if ORDERED and SIGNS:
        base = tl.where(index >= count, index - count, index)
    i_value = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    # Channels lie innermost in values, outermost in images.
    i_spot = i_value // channels
    i_pixel = (i_value - i_spot * channels) * (pixels // channels) + i_spot
    inside = i_value < pixels
    i_image = base
    if OWN:
        i_image += i_set * count
    b_pixels = to_pixels(tl.load(p_images + i_image * pixels + i_pixel, mask=inside, other=0), tl.float32)
    if SIGNS:
        b_signs = tl.load(p_signs + (i_set * count + base) * pixels + i_pixel, mask=inside, other=0)
        b_moved = step_and_clamp(b_pixels, b_signs, epsilon, 0.0, 1.0, tl.float32)
        b_pixels = tl.where(index >= count, b_moved, b_pixels) if ORDERED else b_moved
    b_values = tl.where(inside, b_pixels, 0.0).to(p_values.dtype.element_ty)
    tl.store(p_values + (i_set * rows + i_row) * stored + i_value, b_values, mask=i_value < stored)
    if LABELS and tl.program_id(0) == 0:
        tl.store(p_labels + i_set * rows + i_row, tl.load(p_all_labels + base))


@triton.jit
def bump_kernel(p_counters, p_steps, members, BLOCK: tl.constexpr):
    i_member = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_steps = tl.load(p_steps + i_member, mask=i_member < members, other=0)
    tl.store(p_steps + i_member, b_steps + 1, mask=i_member < members)
    if tl.program_id(0) == 0:
        tl.store(p_counters, tl.load(p_counters) + 1)
        tl.store(p_counters + 1, tl.load(p_counters + 1) + 1)


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
    images, signs, epsilon, all_labels = source
    sets, rows = labels.shape
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    sizes = (images.shape[-4], pixels, 1 if planar else image_shape[0], stored, rows, batch, start)
    chosen = (labels, labels, labels) if order is None else order
    given = (images, images if signs is None else signs, labels if all_labels is None else all_labels)
    kind = (order is not None, images.ndim == 5, signs is not None, all_labels is not None, BLOCK)
    grid = (triton.cdiv(stored, BLOCK), rows, sets)
    gather_kernel[grid](*given, *chosen, values, labels, *sizes, epsilon, *kind, **OPTIONS)


def launch_bump(counters: Tensor, steps: Tensor) -> None:
    """Count a batch, a step of the masks and, for each member, an update."""
    bump_kernel[(triton.cdiv(len(steps), BLOCK),)](counters, steps, len(steps), BLOCK, **OPTIONS)
