"""The convolution block's gradients as Triton kernels; `gpu_convolution` launches them and explains their arguments."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from .gpu_kernels_conv_tiles import CLOSED, SCALED, WINDOW, add_row, load_tap, load_window, pixel_offsets, split_rows


@triton.jit
def load_gradient(p_dy, p_saved, p_slopes, scale, i_at, i_o, inside, FILTERS: tl.constexpr):
    """The gradient before the activation, float32 [ROWS, len(i_o)], and the window it belongs to (CLOSED: none)."""
    i_at = i_at[:, None] + i_o[None, :]
    inside = inside[:, None] & (i_o < FILTERS)[None, :]
    b_saved = tl.load(p_saved + i_at, mask=inside, other=CLOSED).to(tl.int32)
    b_dy = tl.load(p_dy + i_at, mask=inside, other=0.0).to(tl.float32)
    if p_slopes is not None:
        b_dy *= tl.load(p_slopes + i_at, mask=inside, other=0.0).to(tl.float32)
    else:
        b_dy = tl.where((b_saved & SCALED) != 0, b_dy * scale, b_dy)
    return b_dy, b_saved & WINDOW


@triton.jit
def load_pair(
    p_dy, p_saved, p_slopes, scale, i_image, i_block_y, i_block_x, row, i_o, inside,
    OUT_Y: tl.constexpr, OUT_X: tl.constexpr, FILTERS: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """Gradients before the pool of the left and right position in row 0 or 1 of each block."""
    if POOL:
        i_at, inside = pixel_offsets(i_image, i_block_y, i_block_x, inside, OUT_Y // 2, OUT_X // 2, FILTERS)
        b_dy, b_window = load_gradient(p_dy, p_saved, p_slopes, scale, i_at, i_o, inside, FILTERS)
        return tl.where(b_window == row * 2, b_dy, 0.0), tl.where(b_window == row * 2 + 1, b_dy, 0.0)
    else:
        i_y = i_block_y * 2 + row
        i_at, there = pixel_offsets(i_image, i_y, i_block_x * 2, inside, OUT_Y, OUT_X, FILTERS)
        b_left, b_open = load_gradient(p_dy, p_saved, p_slopes, scale, i_at, i_o, there, FILTERS)
        b_left = tl.where(b_open == 0, b_left, 0.0)
        i_at, there = pixel_offsets(i_image, i_y, i_block_x * 2 + 1, inside, OUT_Y, OUT_X, FILTERS)
        b_right, b_open = load_gradient(p_dy, p_saved, p_slopes, scale, i_at, i_o, there, FILTERS)
        return b_left, tl.where(b_open == 0, b_right, 0.0)


@triton.jit
def load_patch_taps(p_weight, row, column, i_k, i_n, CHANNELS: tl.constexpr, FILTERS: tl.constexpr):
    """Weights that lead from patch position (row, column) back to a block's 2x2 pixels of at most 4 channels."""
    i_y, i_x, i_c = 2 - row + i_n // 8, 2 - column + i_n // 4 % 2, i_n % 4
    there = (i_y >= 0) & (i_y < 3) & (i_x >= 0) & (i_x < 3) & (i_c < CHANNELS)
    i_at = ((i_y * 3 + i_x) * CHANNELS + i_c) * FILTERS
    inside = (i_k < FILTERS)[:, None] & there[None, :]
    return tl.load(p_weight + i_at[None, :] + i_k[:, None], mask=inside, other=0.0)


@triton.jit
def store_pixels(
    p_dx, b_dx, i_image, i_y, i_x, i_c, inside, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr
):
    """Store one pixel a row where it lies within its image."""
    i_at, inside = pixel_offsets(i_image, i_y, i_x, inside, HEIGHT, WIDTH, CHANNELS)
    inside = inside[:, None] & (i_c < CHANNELS)[None, :]
    tl.store(p_dx + i_at[:, None] + i_c[None, :], b_dx.to(p_dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["images"])
def input_gradient_kernel(
    p_dy, p_saved, p_slopes, p_weight, p_dx, images, scale,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, FILTERS: tl.constexpr,
    PADDING: tl.constexpr, POOL: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr, FEW: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Blocks are of the input here, shifted so that a patch of gradients is four whole blocks of the output."""
    OUT_Y: tl.constexpr = HEIGHT + 2 * PADDING - 2
    OUT_X: tl.constexpr = WIDTH + 2 * PADDING - 2
    SIZE: tl.constexpr = (OUT_Y // 2 * (OUT_X // 2) if POOL else OUT_Y * OUT_X) * FILTERS
    BLOCKS_Y: tl.constexpr = (HEIGHT + 1 + PADDING) // 2
    BLOCKS_X: tl.constexpr = (WIDTH + 1 + PADDING) // 2
    DTYPE: tl.constexpr = p_weight.dtype.element_ty
    i_member = tl.program_id(1).to(tl.int64)
    rows = images * BLOCKS_Y * BLOCKS_X
    i_image, i_block_y, i_block_x, inside = split_rows(rows, BLOCKS_Y, BLOCKS_X, ROWS, tl.program_id(0))
    i_y, i_x = i_block_y * 2 - PADDING, i_block_x * 2 - PADDING
    p_dy, p_saved = p_dy + i_member * images * SIZE, p_saved + i_member * images * SIZE
    if p_slopes is not None:
        p_slopes += i_member * images * SIZE
    p_weight += i_member * (9 * CHANNELS * FILTERS)
    p_dx += i_member * images * (HEIGHT * WIDTH * CHANNELS)
    i_c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    b_0 = tl.zeros((ROWS, BLOCK_C), tl.float32)
    b_1, b_2, b_3 = b_0, b_0, b_0
    for first in tl.range(0, FILTERS, BLOCK_O):
        i_o = first + tl.arange(0, BLOCK_O)
        if FEW:
            for row in tl.range(0, 4, loop_unroll_factor=UNROLL):
                for side in tl.static_range(2):
                    b_left, b_right = load_pair(
                        p_dy, p_saved, p_slopes, scale, i_image, i_block_y - 1 + row // 2, i_block_x - 1 + side,
                        row % 2, i_o, inside, OUT_Y, OUT_X, FILTERS, POOL,
                    )  # fmt: skip
                    b_w = load_patch_taps(p_weight, row, side * 2, i_o, i_c, CHANNELS, FILTERS)
                    b_0 = tl.dot(b_left.to(DTYPE), b_w, b_0, input_precision=PRECISION)
                    b_w = load_patch_taps(p_weight, row, side * 2 + 1, i_o, i_c, CHANNELS, FILTERS)
                    b_0 = tl.dot(b_right.to(DTYPE), b_w, b_0, input_precision=PRECISION)
        else:
            for tap in tl.range(0, 3, loop_unroll_factor=UNROLL):
                b_w0 = tl.trans(load_tap(p_weight, 8 - tap * 3, i_c, i_o, CHANNELS, FILTERS))
                b_w1 = tl.trans(load_tap(p_weight, 7 - tap * 3, i_c, i_o, CHANNELS, FILTERS))
                b_w2 = tl.trans(load_tap(p_weight, 6 - tap * 3, i_c, i_o, CHANNELS, FILTERS))
                for down in tl.static_range(2):
                    row = tap + down
                    b_g0, b_g1 = load_pair(
                        p_dy, p_saved, p_slopes, scale, i_image, i_block_y - 1 + row // 2, i_block_x - 1, row % 2,
                        i_o, inside, OUT_Y, OUT_X, FILTERS, POOL,
                    )  # fmt: skip
                    b_g2, b_g3 = load_pair(
                        p_dy, p_saved, p_slopes, scale, i_image, i_block_y - 1 + row // 2, i_block_x, row % 2,
                        i_o, inside, OUT_Y, OUT_X, FILTERS, POOL,
                    )  # fmt: skip
                    b_g0, b_g1, b_g2, b_g3 = b_g0.to(DTYPE), b_g1.to(DTYPE), b_g2.to(DTYPE), b_g3.to(DTYPE)
                    if down == 0:
                        b_0, b_1 = add_row(b_0, b_1, b_g0, b_g1, b_g2, b_g3, b_w0, b_w1, b_w2, PRECISION)
                    else:
                        b_2, b_3 = add_row(b_2, b_3, b_g0, b_g1, b_g2, b_g3, b_w0, b_w1, b_w2, PRECISION)
    if FEW:
        i_n = tl.arange(0, BLOCK_C)
        i_y, i_x = i_y[:, None] + (i_n // 8)[None, :], i_x[:, None] + (i_n // 4 % 2)[None, :]
        i_at, inside = pixel_offsets(i_image[:, None], i_y, i_x, inside[:, None], HEIGHT, WIDTH, CHANNELS)
        inside = inside & (i_n % 4 < CHANNELS)[None, :]
        tl.store(p_dx + i_at + (i_n % 4)[None, :], b_0.to(p_dx.dtype.element_ty), mask=inside)
    else:
        store_pixels(p_dx, b_0, i_image, i_y, i_x, i_c, inside, HEIGHT, WIDTH, CHANNELS)
        store_pixels(p_dx, b_1, i_image, i_y, i_x + 1, i_c, inside, HEIGHT, WIDTH, CHANNELS)
        store_pixels(p_dx, b_2, i_image, i_y + 1, i_x, i_c, inside, HEIGHT, WIDTH, CHANNELS)
        store_pixels(p_dx, b_3, i_image, i_y + 1, i_x + 1, i_c, inside, HEIGHT, WIDTH, CHANNELS)


@triton.jit(do_not_specialize=["images"])
def weight_gradient_kernel(
    p_dy, p_saved, p_slopes, p_x, p_scratch, images, scale,
    SHARED: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, FILTERS: tl.constexpr,
    PADDING: tl.constexpr, POOL: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """Every so many tiles of a member's images, summed into a slab of its own.

    A slab is [9 * CHANNELS, FILTERS] weights, then biases, where channels are few. Else a program takes one row of taps
    and multiplies whole patch rows of four pixels, which lie together in memory: [3, 2, 4 * CHANNELS, FILTERS], for a
    block's left and right positions apart, so that pixel i is tap i of the left ones and tap i - 1 of the right ones.
    """
    OUT_Y: tl.constexpr = HEIGHT + 2 * PADDING - 2
    OUT_X: tl.constexpr = WIDTH + 2 * PADDING - 2
    BLOCKS_Y: tl.constexpr = OUT_Y // 2 if POOL else (OUT_Y + 1) // 2
    BLOCKS_X: tl.constexpr = OUT_X // 2 if POOL else (OUT_X + 1) // 2
    SIZE: tl.constexpr = (BLOCKS_Y * BLOCKS_X if POOL else OUT_Y * OUT_X) * FILTERS
    LENGTH: tl.constexpr = 9 * CHANNELS if FEW else 4 * CHANNELS
    SLAB: tl.constexpr = (LENGTH * (1 if FEW else 6) + 1) * FILTERS
    DTYPE: tl.constexpr = p_x.dtype.element_ty
    K_TILES: tl.constexpr = (LENGTH + BLOCK_K - 1) // BLOCK_K
    i_member = tl.program_id(1).to(tl.int64)
    tap, k_tile, o_tile = tl.program_id(2) % 3, tl.program_id(2) // 3 % K_TILES, tl.program_id(2) // (3 * K_TILES)
    if FEW:
        tap, k_tile, o_tile = 0, 0, tl.program_id(2)
    i_k = k_tile * BLOCK_K + tl.arange(0, BLOCK_K)
    i_o = o_tile * BLOCK_O + tl.arange(0, BLOCK_O)
    p_dy, p_saved = p_dy + i_member * images * SIZE, p_saved + i_member * images * SIZE
    if p_slopes is not None:
        p_slopes += i_member * images * SIZE
    if not SHARED:
        p_x += i_member * images * (HEIGHT * WIDTH * CHANNELS)
    # One program in so many has the bias; the others would sum up what nobody reads.
    sums_bias = tap + k_tile == 0
    b_left = tl.zeros((BLOCK_K, BLOCK_O), tl.float32)
    b_right = b_left
    b_bias = tl.zeros((BLOCK_O,), tl.float32)
    rows = images * BLOCKS_Y * BLOCKS_X
    for i_tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        i_image, i_block_y, i_block_x, inside = split_rows(rows, BLOCKS_Y, BLOCKS_X, ROWS, i_tile)
        i_y, i_x = i_block_y * 2 - PADDING, i_block_x * 2 - PADDING
        for row in tl.static_range(2):
            b_g0, b_g1 = load_pair(
                p_dy, p_saved, p_slopes, scale, i_image, i_block_y, i_block_x, row, i_o, inside,
                OUT_Y, OUT_X, FILTERS, POOL,
            )  # fmt: skip
            if sums_bias:
                b_bias += tl.sum(b_g0 + b_g1, 0)
            b_g0, b_g1 = b_g0.to(DTYPE), b_g1.to(DTYPE)
            if FEW:
                b_x = load_window(p_x, i_image, i_y + row, i_x, i_k, inside, HEIGHT, WIDTH, CHANNELS)
                b_left = tl.dot(tl.trans(b_x), b_g0, b_left, input_precision=PRECISION)
                b_x = load_window(p_x, i_image, i_y + row, i_x + 1, i_k, inside, HEIGHT, WIDTH, CHANNELS)
                b_left = tl.dot(tl.trans(b_x), b_g1, b_left, input_precision=PRECISION)
            else:
                b_x = load_patch_row(p_x, i_image, i_y + (row + tap), i_x, i_k, inside, HEIGHT, WIDTH, CHANNELS)
                b_left = tl.dot(tl.trans(b_x), b_g0, b_left, input_precision=PRECISION)
                b_right = tl.dot(tl.trans(b_x), b_g1, b_right, input_precision=PRECISION)
    p_scratch += (tl.program_id(0) * tl.num_programs(1) + i_member) * SLAB
    there = i_o < FILTERS
    inside = (i_k < LENGTH)[:, None] & there[None, :]
    i_at = (i_k * FILTERS)[:, None] + i_o[None, :]
    if FEW:
        tl.store(p_scratch + i_at, b_left, mask=inside)
        tl.store(p_scratch + (SLAB - FILTERS) + i_o, b_bias, mask=there)
    else:
        tl.store(p_scratch + tap * (2 * LENGTH * FILTERS) + i_at, b_left, mask=inside)
        tl.store(p_scratch + (tap * 2 + 1) * (LENGTH * FILTERS) + i_at, b_right, mask=inside)
        if sums_bias:
            tl.store(p_scratch + (SLAB - FILTERS) + i_o, b_bias, mask=there)


@triton.jit
def load_patch_row(
    p_x, i_image, i_y, i_x, i_k, inside, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr
):
    """Four pixels side by side from (i_y, i_x) on, [ROWS, len(i_k)], all their channels; zeros around the image."""
    i_at = ((i_image * HEIGHT + i_y) * WIDTH + i_x) * CHANNELS
    i_column = i_x[:, None] + (i_k // CHANNELS)[None, :]
    inside = (inside & (i_y >= 0) & (i_y < HEIGHT))[:, None] & (i_column >= 0) & (i_column < WIDTH)
    inside = inside & (i_k < 4 * CHANNELS)[None, :]
    return tl.load(p_x + i_at[:, None] + i_k[None, :], mask=inside, other=0.0)


@triton.jit
def reduce_kernel(
    p_scratch, p_dweight, p_dbias, splits,
    CHANNELS: tl.constexpr, FILTERS: tl.constexpr, FEW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum a member's slabs in their order."""
    WEIGHTS: tl.constexpr = 9 * CHANNELS * FILTERS
    PIXEL: tl.constexpr = CHANNELS * FILTERS
    SLAB: tl.constexpr = (WEIGHTS if FEW else 24 * PIXEL) + FILTERS
    members, i_member = tl.num_programs(1), tl.program_id(1).to(tl.int64)
    i_at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_weight, there = i_at < WEIGHTS, i_at < WEIGHTS + FILTERS
    i_from = i_at
    if not FEW:
        i_from = i_at // (3 * PIXEL) * (8 * PIXEL) + i_at % (3 * PIXEL)
    i_from = tl.where(is_weight, i_from, i_at - WEIGHTS + (SLAB - FILTERS))
    b_sum = tl.zeros((BLOCK,), tl.float32)
    for split in tl.range(0, splits):
        p_slab = p_scratch + (split * members + i_member) * SLAB
        b_sum += tl.load(p_slab + i_from, mask=there, other=0.0)
        if not FEW:
            b_sum += tl.load(p_slab + i_from + 5 * PIXEL, mask=is_weight, other=0.0)
    tl.store(p_dweight + i_member * WEIGHTS + i_at, b_sum, mask=is_weight)
    tl.store(p_dbias + i_member * FILTERS + (i_at - WEIGHTS), b_sum, mask=there & ~is_weight)
