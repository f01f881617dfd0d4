"""The input gradient of a convolution of another layer's outputs as a Triton kernel; `gpu_convolution` launches it."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from ..dropout.gpu_kernels import scale_of
from .gpu_kernels_conv_gradients import load_block, load_gradient, passed, split_tile
from .gpu_kernels_conv_tiles import (
    CHANNELS,
    DX,
    RATE,
    SCALED,
    STORED,
    STRIDE,
    WEIGHT,
    Y,
    input_of,
    layer_of,
    load_tap,
    offset,
    out_sides,
    pixel_offsets,
    size,
)


@triton.jit
def load_taps(p_weight, i_c, i_o, channels, stored):
    """The nine taps' weights, each [len(i_o), len(i_c)]."""
    return (
        tl.trans(load_tap(p_weight, 0, i_c, i_o, channels, stored)),
        tl.trans(load_tap(p_weight, 1, i_c, i_o, channels, stored)),
        tl.trans(load_tap(p_weight, 2, i_c, i_o, channels, stored)),
        tl.trans(load_tap(p_weight, 3, i_c, i_o, channels, stored)),
        tl.trans(load_tap(p_weight, 4, i_c, i_o, channels, stored)),
        tl.trans(load_tap(p_weight, 5, i_c, i_o, channels, stored)),
        tl.trans(load_tap(p_weight, 6, i_c, i_o, channels, stored)),
        tl.trans(load_tap(p_weight, 7, i_c, i_o, channels, stored)),
        tl.trans(load_tap(p_weight, 8, i_c, i_o, channels, stored)),
    )


@triton.jit
def add_position(
    b_sums, b_dy, b_saved, b_w, byte: tl.constexpr, Y_AT: tl.constexpr, X_AT: tl.constexpr, PRECISION: tl.constexpr
):
    """What the position (Y_AT, X_AT) of a patch of 4x4 gives to the 2x2 pixels that it meets."""
    b_0, b_1, b_2, b_3 = b_sums
    if Y_AT < 3:
        if X_AT < 3:
            b_0 = tl.dot(passed(b_dy, b_saved, byte, 0), b_w[8 - Y_AT * 3 - X_AT], b_0, input_precision=PRECISION)
        if X_AT > 0:
            b_1 = tl.dot(passed(b_dy, b_saved, byte, 1), b_w[9 - Y_AT * 3 - X_AT], b_1, input_precision=PRECISION)
    if Y_AT > 0:
        if X_AT < 3:
            b_2 = tl.dot(passed(b_dy, b_saved, byte, 2), b_w[11 - Y_AT * 3 - X_AT], b_2, input_precision=PRECISION)
        if X_AT > 0:
            b_3 = tl.dot(passed(b_dy, b_saved, byte, 3), b_w[12 - Y_AT * 3 - X_AT], b_3, input_precision=PRECISION)
    return b_0, b_1, b_2, b_3


@triton.jit
def add_patch(
    b_sums, b_w, p_dy, p_saved, p_slopes, i_start, i_block_y, i_block_x, i_o, inside, out_y, out_x, stored,
    POOL: tl.constexpr, OPEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The patches of 4x4 gradients, which are four blocks, times the taps."""
    DTYPE: tl.constexpr = b_w[0].dtype
    for side in tl.static_range(4):
        b_dy, b_saved = load_block(
            p_dy, p_saved, p_slopes, i_start, i_block_y - 1 + side // 2, i_block_x - 1 + side % 2, i_o, inside,
            out_y, out_x, stored, POOL, DTYPE,
        )  # fmt: skip
        for window in tl.static_range(4):
            b_sums = add_position(
                b_sums, b_dy[window], b_saved[window], b_w, OPEN + window if POOL else OPEN,
                side // 2 * 2 + window // 2, side % 2 * 2 + window % 2, PRECISION,
            )  # fmt: skip
    return b_sums


@triton.jit
def parts_of(b, PRECISION: tl.constexpr):
    """An operand as products take it: for tf32x3 the tf32 that it begins with, and the rest."""
    if PRECISION == "tf32x3":
        b_most = (b.to(tl.uint32, bitcast=True) & 0xFFFFE000).to(tl.float32, bitcast=True)
        return b_most, b - b_most
    else:
        return b, b


@triton.jit
def product(b_a, b_b, b_sum, PRECISION: tl.constexpr):
    """The product of two operands' parts, added to a sum: of tf32x3 all but that of the rests, the small ones first."""
    if PRECISION == "tf32x3":
        b_sum = tl.dot(b_a[1], b_b[0], b_sum, input_precision="tf32")
        b_sum = tl.dot(b_a[0], b_b[1], b_sum, input_precision="tf32")
        return tl.dot(b_a[0], b_b[0], b_sum, input_precision="tf32")
    else:
        return tl.dot(b_a[0], b_b[0], b_sum, input_precision=PRECISION)


@triton.jit
def load_pair(
    p_dy, p_saved, p_slopes, i_start, i_block_y, i_block_x, row, i_o, inside, out_y, out_x, stored,
    POOL: tl.constexpr, OPEN: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients before the pool of the left and right position in row 0 or 1 of each block, in parts."""
    if POOL:
        i_at, there = pixel_offsets(i_start, i_block_y, i_block_x, inside, out_y // 2, out_x // 2, stored)
        b_dy, b_saved = load_gradient(p_dy, p_saved, p_slopes, i_at, i_o, there, stored, DTYPE)
        b_most, b_rest = parts_of(b_dy, PRECISION)
        b_zero = tl.zeros(b_dy.shape, DTYPE)
        b_window = b_saved.to(tl.int32) - OPEN
        b_is, b_next = b_window == row * 2, b_window == row * 2 + 1
        b_left = tl.where(b_is, b_most, b_zero), tl.where(b_is, b_rest, b_zero)
        return b_left, (tl.where(b_next, b_most, b_zero), tl.where(b_next, b_rest, b_zero))
    else:
        i_y = i_block_y * 2 + row
        i_at, there = pixel_offsets(i_start, i_y, i_block_x * 2, inside, out_y, out_x, stored)
        b_left, b_saved = load_gradient(p_dy, p_saved, p_slopes, i_at, i_o, there, stored, DTYPE)
        b_left = passed(b_left, b_saved, OPEN)
        i_at, there = pixel_offsets(i_start, i_y, i_block_x * 2 + 1, inside, out_y, out_x, stored)
        b_right, b_saved = load_gradient(p_dy, p_saved, p_slopes, i_at, i_o, there, stored, DTYPE)
        return parts_of(b_left, PRECISION), parts_of(passed(b_right, b_saved, OPEN), PRECISION)


@triton.jit
def add_row(b_left, b_right, b_0, b_1, b_2, b_3, b_w, PRECISION: tl.constexpr):
    """A patch row of four gradients times a row of three taps, for the left and the right pixel of a block."""
    b_left = product(b_0, b_w[0], b_left, PRECISION)
    b_right = product(b_1, b_w[0], b_right, PRECISION)
    b_left = product(b_1, b_w[1], b_left, PRECISION)
    b_right = product(b_2, b_w[1], b_right, PRECISION)
    b_left = product(b_2, b_w[2], b_left, PRECISION)
    b_right = product(b_3, b_w[2], b_right, PRECISION)
    return b_left, b_right


@triton.jit
def add_taps(
    b_sums, tap, p_weight, i_c, channels, p_dy, p_saved, p_slopes, i_start, i_block_y, i_block_x, i_o, inside, out_y,
    out_x, stored, POOL: tl.constexpr, OPEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A row of taps, from below, times the two rows of gradients that it meets."""
    DTYPE: tl.constexpr = p_weight.dtype.element_ty
    b_0, b_1, b_2, b_3 = b_sums
    b_w = (
        parts_of(tl.trans(load_tap(p_weight, 8 - tap * 3, i_c, i_o, channels, stored)), PRECISION),
        parts_of(tl.trans(load_tap(p_weight, 7 - tap * 3, i_c, i_o, channels, stored)), PRECISION),
        parts_of(tl.trans(load_tap(p_weight, 6 - tap * 3, i_c, i_o, channels, stored)), PRECISION),
    )
    for down in tl.static_range(2):
        row = tap + down
        b_g0, b_g1 = load_pair(
            p_dy, p_saved, p_slopes, i_start, i_block_y - 1 + row // 2, i_block_x - 1, row % 2, i_o, inside,
            out_y, out_x, stored, POOL, OPEN, DTYPE, PRECISION,
        )  # fmt: skip
        b_g2, b_g3 = load_pair(
            p_dy, p_saved, p_slopes, i_start, i_block_y - 1 + row // 2, i_block_x, row % 2, i_o, inside,
            out_y, out_x, stored, POOL, OPEN, DTYPE, PRECISION,
        )  # fmt: skip
        if down == 0:
            b_0, b_1 = add_row(b_0, b_1, b_g0, b_g1, b_g2, b_g3, b_w, PRECISION)
        else:
            b_2, b_3 = add_row(b_2, b_3, b_g0, b_g1, b_g2, b_g3, b_w, PRECISION)
    return b_0, b_1, b_2, b_3


@triton.jit
def store_pixels(p_dx, b_dx, i_start, i_y, i_x, i_c, inside, height, width, channels):
    """Store one pixel a row where it lies within its image."""
    i_at, inside = pixel_offsets(i_start, i_y, i_x, inside, height, width, channels)
    inside = inside[:, None] & (i_c < channels)[None, :]
    tl.store(p_dx + i_at[:, None] + i_c[None, :], b_dx.to(p_dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["images"])
def input_gradient_kernel(
    p_dy, p_saved, p_slopes, p_weight, p_dx, p_layers, p_tiles, images,
    SIZES: tl.constexpr, ALIGNED: tl.constexpr, POOL: tl.constexpr, DROPPED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, TILES: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr, WHOLE: tl.constexpr,
    FAR: tl.constexpr,
):  # fmt: skip
    """Blocks are of the input here, shifted so that a patch of gradients is four whole blocks of the output.

    A program takes TILES tiles of rows, one after the other. WHOLE: one block holds all filters, so the weights are
    read once and a patch as a whole; else a row of taps at a time.
    """
    OPEN: tl.constexpr = SCALED if DROPPED else 0
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = layer_of(p_layers, p_tile)
    height, width, padding = input_of(p_layer, SIZES)
    stride = size(p_layer, STRIDE, SIZES, True)
    channels, stored = size(p_layer, CHANNELS, SIZES, ALIGNED), size(p_layer, STORED, SIZES, True)
    out_y, out_x, pooled_y, pooled_x = out_sides(height, width, padding, POOL)
    y_stride = (pooled_y * pooled_x if POOL else out_y * out_x) * stored
    blocks_y, blocks_x = (height + 1 + padding) // 2, (width + 1 + padding) // 2
    i_at = offset(p_layer, Y)
    p_dy, p_saved = p_dy + i_at, p_saved + i_at
    if p_slopes is not None:
        p_slopes += i_at
    p_weight, p_dx = p_weight + offset(p_layer, WEIGHT), p_dx + offset(p_layer, DX)
    i_c = tl.load(p_tile + 2) * BLOCK_C + tl.arange(0, BLOCK_C)
    i_o = tl.arange(0, BLOCK_O)
    if WHOLE:
        b_w = load_taps(p_weight, i_c, i_o, channels, stored)
    i_first = tl.load(p_tile + 1) * TILES
    for i_tile in tl.range(i_first, i_first + TILES):
        i_image, i_more, i_block_y, i_block_x, inside = split_tile(images, blocks_y, blocks_x, ROWS, i_tile, FAR)
        i_at = i_image * y_stride
        p_dy_t, p_saved_t, p_slopes_t = p_dy + i_at, p_saved + i_at, p_slopes
        if p_slopes is not None:
            p_slopes_t += i_at
        i_start = i_more * y_stride
        b_0 = tl.zeros((ROWS, BLOCK_C), tl.float32)
        b_sums = (b_0, b_0, b_0, b_0)
        if WHOLE:
            b_sums = add_patch(
                b_sums, b_w, p_dy_t, p_saved_t, p_slopes_t, i_start, i_block_y, i_block_x, i_o, inside, out_y, out_x,
                stored, POOL, OPEN, PRECISION,
            )  # fmt: skip
        else:
            for turn in tl.range(0, 3 * ((stored + BLOCK_O - 1) // BLOCK_O)):
                b_sums = add_taps(
                    b_sums, turn % 3, p_weight, i_c, channels, p_dy_t, p_saved_t, p_slopes_t, i_start, i_block_y,
                    i_block_x, turn // 3 * BLOCK_O + i_o, inside, out_y, out_x, stored, POOL, OPEN, PRECISION,
                )  # fmt: skip
        b_0, b_1, b_2, b_3 = b_sums
        if DROPPED and p_slopes is None:
            scale = scale_of(tl.load(p_layer + RATE))
            b_0, b_1, b_2, b_3 = b_0 * scale, b_1 * scale, b_2 * scale, b_3 * scale
        p_dx_t, i_start = p_dx + i_image * stride, i_more * stride
        i_y, i_x = i_block_y * 2 - padding, i_block_x * 2 - padding
        store_pixels(p_dx_t, b_0, i_start, i_y, i_x, i_c, inside, height, width, channels)
        store_pixels(p_dx_t, b_1, i_start, i_y, i_x + 1, i_c, inside, height, width, channels)
        store_pixels(p_dx_t, b_2, i_start, i_y + 1, i_x, i_c, inside, height, width, channels)
        store_pixels(p_dx_t, b_3, i_start, i_y + 1, i_x + 1, i_c, inside, height, width, channels)
