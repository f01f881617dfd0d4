"""The Triton kernels of a training step's first and last launch: a batch's images and labels, and the counters."""

import triton
import triton.language as tl

from ..fgsm.gpu_kernels import step_and_clamp, to_pixels


@triton.jit(do_not_specialize=["count", "rows", "batch", "start"])
def gather_kernel(
    p_images,
    p_signs,
    p_epsilons,
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
    ORDERED: tl.constexpr,
    OWN: tl.constexpr,
    SIGNS: tl.constexpr,
    LABELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_set = (tl.program_id(0) // rows).to(tl.int64)
    i_row = tl.program_id(0) % rows
    if ORDERED:
        at = tl.load(p_row_of + i_set) * tl.load(p_counters + 2) + tl.load(p_counters) * batch + i_row
        index = tl.load(p_order + at)
    else:
        index = tl.minimum(start + i_row, count - 1).to(tl.int64)
    base = index
    if ORDERED and SIGNS:
        base = tl.where(index >= count, index - count, index)
    i_value = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
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
        b_moved = step_and_clamp(b_pixels, b_signs, tl.load(p_epsilons + i_set), 0.0, 1.0, tl.float32)
        b_pixels = tl.where(index >= count, b_moved, b_pixels) if ORDERED else b_moved
    b_values = tl.where(inside, b_pixels, 0.0).to(p_values.dtype.element_ty)
    tl.store(p_values + (i_set * rows + i_row) * stored + i_value, b_values, mask=i_value < stored)
    if LABELS and tl.program_id(1) == 0:
        tl.store(p_labels + i_set * rows + i_row, tl.load(p_all_labels + base))


@triton.jit
def bump_kernel(p_counters, p_steps, members, BLOCK: tl.constexpr):
    i_member = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_steps = tl.load(p_steps + i_member, mask=i_member < members, other=0)
    tl.store(p_steps + i_member, b_steps + 1, mask=i_member < members)
    if tl.program_id(0) == 0:
        tl.store(p_counters, tl.load(p_counters) + 1)
        tl.store(p_counters + 1, tl.load(p_counters + 1) + 1)
