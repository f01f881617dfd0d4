"""The Triton kernels of the square attack, a program a pair; `gpu_triton` launches them."""

# No `from __future__ import annotations`: Triton reads the annotations, and float64 ones keep epsilon exact.
import triton
import triton.language as tl

TINY = tl.constexpr(1e-12)


@triton.jit
def first_of(p_drawn, side, size):
    """First row or column of a square, from a number uniform in [-1, 1)."""
    at = (tl.load(p_drawn).to(tl.float64) + 1.0) / 2.0 * (size - side + 1)
    return tl.minimum(tl.maximum(at.to(tl.int32), 0), size - side)


@triton.jit
def clamp(b_values, low, high):
    """Comparisons rather than min and max: they keep a NaN pixel."""
    low, high = tl.full((1,), low, b_values.dtype), tl.full((1,), high, b_values.dtype)
    b_values = tl.where(b_values < low, low, b_values)
    return tl.where(b_values > high, high, b_values)


@triton.jit(do_not_specialize=["side"])
def corners_kernel(
    p_tried,
    p_clean,
    p_drawn,
    channels,
    height,
    width,
    side,
    epsilon: tl.float64,
    low: tl.float64,
    high: tl.float64,
    BLOCK: tl.constexpr,
):
    i_pair = tl.program_id(0).to(tl.int64)
    p_drawn += i_pair * (2 + channels)
    row, column = first_of(p_drawn, side, height), first_of(p_drawn + 1, side, width)
    for channel in range(channels):
        i_start = ((i_pair * channels + channel) * height + row) * width + column
        b_change = tl.full((1,), epsilon, p_tried.dtype.element_ty)
        b_change = tl.where(tl.load(p_drawn + 2 + channel) < 0, -b_change, b_change)
        for start in range(0, side * side, BLOCK):
            i_pixel = start + tl.arange(0, BLOCK)
            inside = i_pixel < side * side
            i_at = i_start + i_pixel // side * width + i_pixel % side
            b_clean = tl.load(p_clean + i_at, mask=inside, other=0)
            tl.store(p_tried + i_at, clamp(b_clean + b_change, low, high), mask=inside)


@triton.jit
def changes(p_best, p_clean, i_at, inside):
    """best - clean, float64; 0 outside."""
    b_best = tl.load(p_best + i_at, mask=inside, other=0).to(tl.float64)
    return b_best - tl.load(p_clean + i_at, mask=inside, other=0).to(tl.float64)


@triton.jit(do_not_specialize=["side"])
def bumps_kernel(
    p_tried,
    p_best,
    p_clean,
    p_spent,
    p_after,
    p_drawn,
    p_bumps,
    channels,
    height,
    width,
    side,
    epsilon: tl.float64,
    low: tl.float64,
    high: tl.float64,
    BLOCK: tl.constexpr,
):
    i_pair = tl.program_id(0).to(tl.int64)
    p_drawn += i_pair * (5 + channels)
    row, column = first_of(p_drawn, side, height), first_of(p_drawn + 1, side, width)
    from_row, from_column = first_of(p_drawn + 2, side, height), first_of(p_drawn + 3, side, width)
    p_bumps += tl.where(tl.load(p_drawn + 4) < 0, 0, side * side)
    spent = tl.load(p_spent + i_pair)
    spare = (epsilon * epsilon - spent) / channels
    total = spent
    for channel in range(channels):
        i_plane = (i_pair * channels + channel) * height * width
        sign = tl.where(tl.load(p_drawn + 5 + channel) < 0, -1.0, 1.0)
        # What both squares have; the pixels that only the second has become clean.
        b_own, b_given = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
        for start in range(0, side * side, BLOCK):
            i_pixel = start + tl.arange(0, BLOCK)
            inside, i_y, i_x = i_pixel < side * side, i_pixel // side, i_pixel % side
            b_change = changes(p_best, p_clean, i_plane + (row + i_y) * width + column + i_x, inside)
            b_own += b_change * b_change
            i_y, i_x = from_row + i_y, from_column + i_x
            within = (i_y >= row) & (i_y < row + side) & (i_x >= column) & (i_x < column + side)
            i_at, only = i_plane + i_y * width + i_x, inside & (within == 0)
            b_change = changes(p_best, p_clean, i_at, only)
            b_given += b_change * b_change
            tl.store(p_tried + i_at, clamp(tl.load(p_clean + i_at, mask=only, other=0), low, high), mask=only)
        own = tl.sum(b_own, 0)
        mass = own + tl.sum(b_given, 0)
        inverse = 1.0 / tl.where(tl.sqrt(own) < TINY, TINY, tl.sqrt(own))
        b_length = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, side * side, BLOCK):
            i_pixel = start + tl.arange(0, BLOCK)
            inside = i_pixel < side * side
            i_at = i_plane + (row + i_pixel // side) * width + column + i_pixel % side
            b_bump = sign * tl.load(p_bumps + i_pixel, mask=inside, other=0).to(tl.float64)
            b_shape = b_bump + changes(p_best, p_clean, i_at, inside) * inverse
            b_length += b_shape * b_shape
        length, size = tl.sqrt(tl.sum(b_length, 0)), spare + mass
        scale = tl.sqrt(tl.where(size < 0, 0.0, size)) / tl.where(length < TINY, TINY, length)
        b_new = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, side * side, BLOCK):
            i_pixel = start + tl.arange(0, BLOCK)
            inside = i_pixel < side * side
            i_at = i_plane + (row + i_pixel // side) * width + column + i_pixel % side
            b_bump = sign * tl.load(p_bumps + i_pixel, mask=inside, other=0).to(tl.float64)
            b_shape = b_bump + changes(p_best, p_clean, i_at, inside) * inverse
            b_clean = tl.load(p_clean + i_at, mask=inside, other=0).to(tl.float64)
            b_pixels = clamp(b_clean + b_shape * scale, low, high).to(p_tried.dtype.element_ty)
            tl.store(p_tried + i_at, b_pixels, mask=inside)
            b_change = tl.where(inside, b_pixels.to(tl.float64) - b_clean, 0.0)
            b_new += b_change * b_change
        total += tl.sum(b_new, 0) - mass
    tl.store(p_after + i_pair, total)


@triton.jit
def copy_square(p_from, p_to, i_pair, p_drawn, channels, height, width, side, BLOCK: tl.constexpr):
    row, column = first_of(p_drawn, side, height), first_of(p_drawn + 1, side, width)
    for channel in range(channels):
        i_start = ((i_pair * channels + channel) * height + row) * width + column
        for start in range(0, side * side, BLOCK):
            i_pixel = start + tl.arange(0, BLOCK)
            inside = i_pixel < side * side
            i_at = i_start + i_pixel // side * width + i_pixel % side
            tl.store(p_to + i_at, tl.load(p_from + i_at, mask=inside, other=0), mask=inside)


@triton.jit(do_not_specialize=["side"])
def keep_kernel(
    p_best,
    p_tried,
    p_values,
    p_logits,
    p_labels,
    p_drawn,
    p_spent,
    p_after,
    channels,
    height,
    width,
    classes,
    numbers,
    side,
    TWO: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_pair = tl.program_id(0).to(tl.int64)
    p_drawn += i_pair * numbers
    i_y = tl.arange(0, BLOCK_Y)
    b_logits = tl.load(p_logits + i_pair * classes + i_y, mask=i_y < classes, other=float("-inf"))
    b_own = (i_y == tl.load(p_labels + i_pair)) & (i_y < classes)
    nan, known = tl.max((b_logits != b_logits).to(tl.int32), 0) > 0, tl.max(b_own.to(tl.int32), 0) > 0
    b_logits = tl.where(b_logits != b_logits, 0.0, b_logits)
    value = tl.max(tl.where(b_own, float("-inf"), b_logits), 0) - tl.sum(tl.where(b_own, b_logits, 0.0), 0)
    before = tl.load(p_values + i_pair)
    # Past the last class lies -inf; a label that is none of the classes has no margin.
    better = (value > before) & ((before > 0) == 0) & known & (nan == 0)
    tl.debug_barrier()  # every warp has its value before the best one is replaced
    p_from, p_to = p_best, p_tried
    if better:
        p_from, p_to = p_tried, p_best
        tl.store(p_values + i_pair, value)
        if TWO:
            tl.store(p_spent + i_pair, tl.load(p_after + i_pair))
    copy_square(p_from, p_to, i_pair, p_drawn, channels, height, width, side, BLOCK)
    if TWO:
        copy_square(p_from, p_to, i_pair, p_drawn + 2, channels, height, width, side, BLOCK)
