"""The gradients of a convolution of images as Triton kernels; `gpu_convolution` launches them."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from ..dropout.gpu_kernels import scale_of
from .gpu_kernels_conv_first_tiles import first_image, load_patch, load_pixels, load_weights, split_near, tiles_left
from .gpu_kernels_conv_tiles import (
    CLOSED,
    DX,
    RATE,
    SCALED,
    SCRATCH,
    SPLITS,
    STORED,
    STRIDE,
    TURNS,
    WEIGHT,
    X,
    Y,
    input_of,
    layer_of,
    offset,
    out_sides,
    size,
)


@triton.jit
def load_open(p_dy, p_saved, p_slopes, i_pixel, ahead, i_o, inside, stored):
    """The gradient before activation and dropout's scale of the positions so far `ahead` of the i_pixel-th.

    And the byte that says which window it belongs to; both [ROWS, len(i_o)].
    """
    i_at = ((i_pixel * stored)[:, None] + i_o[None, :]).to(tl.int64) + ahead * stored
    inside = inside[:, None] & (i_o < stored)[None, :]
    b_saved = tl.load(p_saved + i_at, mask=inside, other=CLOSED)
    b_dy = tl.load(p_dy + i_at, mask=inside, other=0.0)
    if p_slopes is not None:
        b_dy = b_dy.to(tl.float32) * tl.load(p_slopes + i_at, mask=inside, other=0.0).to(tl.float32)
    return b_dy, b_saved


@triton.jit
def scale_of_sums(p_slopes, p_layer, DROPS: tl.constexpr):
    """What dropout multiplies all of a layer's gradients by, where their slopes do not have it already."""
    if DROPS and p_slopes is None:
        return scale_of(tl.load(p_layer + RATE))
    else:
        return 1.0


@triton.jit
def add_products(b_sums, b_g, b_x, WINDOW_Y: tl.constexpr, WINDOW_X: tl.constexpr):
    """Add a window's gradient times its nine pixels."""
    return (
        b_sums[0] + b_g * b_x[WINDOW_Y][WINDOW_X][:, None],
        b_sums[1] + b_g * b_x[WINDOW_Y][WINDOW_X + 1][:, None],
        b_sums[2] + b_g * b_x[WINDOW_Y][WINDOW_X + 2][:, None],
        b_sums[3] + b_g * b_x[WINDOW_Y + 1][WINDOW_X][:, None],
        b_sums[4] + b_g * b_x[WINDOW_Y + 1][WINDOW_X + 1][:, None],
        b_sums[5] + b_g * b_x[WINDOW_Y + 1][WINDOW_X + 2][:, None],
        b_sums[6] + b_g * b_x[WINDOW_Y + 2][WINDOW_X][:, None],
        b_sums[7] + b_g * b_x[WINDOW_Y + 2][WINDOW_X + 1][:, None],
        b_sums[8] + b_g * b_x[WINDOW_Y + 2][WINDOW_X + 2][:, None],
        b_sums[9] + b_g,
    )


@triton.jit
def row_of(b_rows):
    """The first row of many, [len(i_k), filters] -> [filters]."""
    return tl.sum(tl.where(tl.arange(0, b_rows.shape[0])[:, None] == 0, b_rows, 0.0), 0)


@triton.jit
def add_product(b_0, b_1, b_2, b_3, b_x, b_g, WINDOW_AT: tl.constexpr):
    """Add pixels [len(i_k), ROWS] times a window's gradients [ROWS, filters] to its sum."""
    if WINDOW_AT == 0:
        b_0 = tl.dot(b_x, b_g, b_0)
    elif WINDOW_AT == 1:
        b_1 = tl.dot(b_x, b_g, b_1)
    elif WINDOW_AT == 2:
        b_2 = tl.dot(b_x, b_g, b_2)
    else:
        b_3 = tl.dot(b_x, b_g, b_3)
    return b_0, b_1, b_2, b_3


@triton.jit
def tap_of(b_0, b_1, b_2, b_3, i_k, TAP: tl.constexpr, CHANNEL: tl.constexpr, CHANNELS: tl.constexpr):
    """A tap's sum out of those of the 4x4 pixels for each window, [len(i_k), filters] -> [filters]."""
    AT: tl.constexpr = (TAP // 3 * 4 + TAP % 3) * CHANNELS + CHANNEL
    i_k = i_k[:, None]
    b_sum = tl.where(i_k == AT, b_0, 0.0) + tl.where(i_k == AT + CHANNELS, b_1, 0.0)
    b_sum += tl.where(i_k == AT + 4 * CHANNELS, b_2, 0.0)
    return tl.sum(b_sum + tl.where(i_k == AT + 5 * CHANNELS, b_3, 0.0), 0)


@triton.jit(do_not_specialize=["images"])
def first_weight_gradient_kernel(
    p_dy, p_saved, p_slopes, p_x, p_scratch, p_layers, p_tiles, images,
    SIZES: tl.constexpr, CHANNELS: tl.constexpr, POOL: tl.constexpr, DROPS: tl.constexpr, WITHIN: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """Every so many tiles of a member's images, summed into a slab of its own.

    A slab is [9 * channels, stored filters] weights, then biases. With a BLOCK_K of at least 16 * channels a block's
    pixels are multiplied by the gradients of each of its windows as matrices, which 16 bits alone allow; with one of 0
    sums are elementwise, a channel a program.
    """
    TILES: tl.constexpr = CHANNELS if BLOCK_K == 0 else 1
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = layer_of(p_layers, p_tile)
    height, width, padding = input_of(p_layer, SIZES)
    stride = size(p_layer, STRIDE, SIZES, True)
    stored = size(p_layer, STORED, SIZES, True)
    out_y, out_x, blocks_y, blocks_x = out_sides(height, width, padding, POOL)
    blocks = blocks_y * blocks_x
    pixels = blocks if POOL else out_y * out_x
    i_tile, i_split = tl.load(p_tile + 1), tl.load(p_tile + 2)
    channel = i_tile % TILES
    i_o = i_tile // TILES * BLOCK_O + tl.arange(0, BLOCK_O)
    i_at, scale = offset(p_layer, Y), scale_of_sums(p_slopes, p_layer, DROPS)
    FIRST: tl.constexpr = SCALED if DROPS else 0
    p_dy, p_saved = p_dy + i_at, p_saved + i_at
    if p_slopes is not None:
        p_slopes += i_at
    p_x += offset(p_layer, X) + channel
    if BLOCK_K == 0:
        b_0 = tl.zeros((ROWS, BLOCK_O), tl.float32)
        b_sums = (b_0, b_0, b_0, b_0, b_0, b_0, b_0, b_0, b_0, b_0)
    else:
        # The bias's gradient is a product too, by ones; all its rows are the same.
        i_k, b_ones = tl.arange(0, BLOCK_K), tl.full((16, ROWS), 1.0, p_x.dtype.element_ty)
        b_bias = tl.zeros((16, BLOCK_O), tl.float32)
        b_0 = tl.zeros((BLOCK_K, BLOCK_O), tl.float32)
        b_1, b_2, b_3 = b_0, b_0, b_0
    turns, splits = tl.load(p_layer + TURNS).to(tl.int32), tl.load(p_layer + SPLITS).to(tl.int32)
    for i_turn in tl.range(i_split, turns, splits):
        i_image, i_first, left = first_image(images, blocks, ROWS, i_turn, FAR)
        i_more, i_block_y, i_block_x = split_near(i_first + tl.arange(0, ROWS), blocks, blocks_x)
        inside, i_base = i_more < left, i_image * (pixels * stored)
        p_slopes_at = p_slopes
        if p_slopes is not None:
            p_slopes_at = p_slopes + i_base
        i_y, i_x = i_block_y * 2 - padding, i_block_x * 2 - padding
        p_image, i_start = p_x + i_image * stride, i_more * stride
        if BLOCK_K == 0:
            b_x = load_patch(p_image, i_start, i_y, i_x, inside, height, width, CHANNELS, WITHIN)
        else:
            b_x = load_pixels(p_image, i_start, i_y, i_x, i_k, inside, height, width, CHANNELS, WITHIN)
            b_x = tl.trans(b_x)
        if POOL:
            i_pixel = i_more * pixels + i_block_y * blocks_x + i_block_x
            b_dy, b_open = load_open(
                p_dy + i_base, p_saved + i_base, p_slopes_at, i_pixel, 0, i_o, inside, stored
            )  # fmt: skip
            if BLOCK_K == 0:
                for window in tl.static_range(4):
                    b_g = tl.where(b_open == FIRST + window, b_dy.to(tl.float32), 0.0)
                    b_sums = add_products(b_sums, b_g, b_x, window // 2, window % 2)
            else:
                b_dy = b_dy.to(p_x.dtype.element_ty)
                for window in tl.static_range(4):
                    b_g = tl.where(b_open == FIRST + window, b_dy, 0.0)
                    b_bias = tl.dot(b_ones, b_g, b_bias)
                    b_0, b_1, b_2, b_3 = add_product(b_0, b_1, b_2, b_3, b_x, b_g, window)
        else:
            i_pixel = i_more * pixels + i_block_y * (2 * out_x) + i_block_x * 2
            for window in tl.static_range(4):
                there = inside & (i_block_y * 2 + window // 2 < out_y) & (i_block_x * 2 + window % 2 < out_x)
                b_dy, b_open = load_open(
                    p_dy + i_base, p_saved + i_base, p_slopes_at, i_pixel, window // 2 * out_x + window % 2, i_o,
                    there, stored,
                )  # fmt: skip
                if BLOCK_K == 0:
                    b_g = tl.where(b_open == FIRST, b_dy.to(tl.float32), 0.0)
                    b_sums = add_products(b_sums, b_g, b_x, window // 2, window % 2)
                else:
                    b_g = tl.where(b_open == FIRST, b_dy.to(p_x.dtype.element_ty), 0.0)
                    b_bias = tl.dot(b_ones, b_g, b_bias)
                    b_0, b_1, b_2, b_3 = add_product(b_0, b_1, b_2, b_3, b_x, b_g, window)
    there = i_o < stored
    biases = 9 * CHANNELS * stored
    p_scratch += offset(p_layer, SCRATCH) + i_split.to(tl.int64) * (biases + stored)
    for tap in tl.static_range(9):
        p_tap = p_scratch + tap * CHANNELS * stored + i_o
        if BLOCK_K == 0:
            tl.store(p_tap + channel * stored, tl.sum(b_sums[tap], 0) * scale, mask=there)
        else:
            for c in tl.static_range(CHANNELS):
                tl.store(p_tap + c * stored, tap_of(b_0, b_1, b_2, b_3, i_k, tap, c, CHANNELS) * scale, mask=there)
    if channel == 0:
        b_sum = tl.sum(b_sums[9], 0) if BLOCK_K == 0 else row_of(b_bias)
        tl.store(p_scratch + biases + i_o, b_sum * scale, mask=there)


@triton.jit
def add_back(b_0, b_1, b_2, b_3, b_g, b_w, ROW: tl.constexpr, COLUMN: tl.constexpr):
    """Add what the gradient at a place of the 4x4 around a block means for its 2x2 pixels."""
    if ROW < 3 and COLUMN < 3:
        b_0 += b_g * b_w[(2 - ROW) * 3 + 2 - COLUMN]
    if ROW < 3 and COLUMN > 0:
        b_1 += b_g * b_w[(2 - ROW) * 3 + 3 - COLUMN]
    if ROW > 0 and COLUMN < 3:
        b_2 += b_g * b_w[(3 - ROW) * 3 + 2 - COLUMN]
    if ROW > 0 and COLUMN > 0:
        b_3 += b_g * b_w[(3 - ROW) * 3 + 3 - COLUMN]
    return b_0, b_1, b_2, b_3


@triton.jit
def store_sums(p_dx, b_dx, scale, i_start, i_y, i_x, inside, height, width, CHANNELS: tl.constexpr):
    """Store the sums over filters, one pixel a row, where it lies within its image."""
    inside = inside & (i_y >= 0) & (i_y < height) & (i_x >= 0) & (i_x < width)
    b_dx = (tl.sum(b_dx, 1) * scale).to(p_dx.dtype.element_ty)
    tl.store(p_dx + i_start + (i_y * width + i_x) * CHANNELS, b_dx, mask=inside)


@triton.jit(do_not_specialize=["images"])
def first_input_gradient_kernel(
    p_dy, p_saved, p_slopes, p_weight, p_dx, p_layers, p_tiles, images,
    SIZES: tl.constexpr, CHANNELS: tl.constexpr, POOL: tl.constexpr, DROPS: tl.constexpr, SINGLE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_O: tl.constexpr, REPEAT: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """Blocks are of the images here, as in `input_gradient_kernel`; a channel a program.

    SINGLE: whether all filters are in one block of columns, whose weights are then loaded once for all tiles of rows.
    """
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = layer_of(p_layers, p_tile)
    height, width, padding = input_of(p_layer, SIZES)
    stride = size(p_layer, STRIDE, SIZES, True)
    stored = size(p_layer, STORED, SIZES, True)
    out_y, out_x, pooled_y, pooled_x = out_sides(height, width, padding, POOL)
    SIDE: tl.constexpr = 2 if POOL else 4
    side_y, side_x = (pooled_y, pooled_x) if POOL else (out_y, out_x)
    pixels = side_y * side_x
    blocks_y, blocks_x = (height + 1 + padding) // 2, (width + 1 + padding) // 2
    blocks = blocks_y * blocks_x
    i_tile, channel = tl.load(p_tile + 1) * REPEAT, tl.load(p_tile + 2)
    i_at, scale = offset(p_layer, Y), scale_of_sums(p_slopes, p_layer, DROPS)
    FIRST: tl.constexpr = SCALED if DROPS else 0
    p_dy, p_saved = p_dy + i_at, p_saved + i_at
    if p_slopes is not None:
        p_slopes += i_at
    p_weight, p_dx = p_weight + offset(p_layer, WEIGHT), p_dx + offset(p_layer, DX) + channel
    if SINGLE:
        b_w = load_weights(p_weight, channel, tl.arange(0, BLOCK_O), stored, CHANNELS)
    for turn in tl.range(0, tiles_left(images, blocks, ROWS, i_tile, REPEAT, FAR)):
        i_image, i_first, left = first_image(images, blocks, ROWS, i_tile + turn, FAR)
        i_more, i_block_y, i_block_x = split_near(i_first + tl.arange(0, ROWS), blocks, blocks_x)
        inside, i_base = i_more < left, i_image * (pixels * stored)
        p_slopes_at = p_slopes
        if p_slopes is not None:
            p_slopes_at = p_slopes + i_base
        i_y, i_x = (i_block_y - 1) * (SIDE // 2), (i_block_x - 1) * (SIDE // 2)
        i_pixel = i_more * pixels + i_y * side_x + i_x
        b_0 = tl.zeros((ROWS, BLOCK_O), tl.float32)
        b_1, b_2, b_3 = b_0, b_0, b_0
        for first in tl.range(0, BLOCK_O if SINGLE else stored, BLOCK_O):
            i_o = first + tl.arange(0, BLOCK_O)
            if not SINGLE:
                b_w = load_weights(p_weight, channel, i_o, stored, CHANNELS)
            for place in tl.static_range(SIDE * SIDE):
                down, right = place // SIDE, place % SIDE
                there = inside & (i_y >= -down) & (i_y < side_y - down) & (i_x >= -right) & (i_x < side_x - right)
                b_dy, b_open = load_open(
                    p_dy + i_base, p_saved + i_base, p_slopes_at, i_pixel, down * side_x + right, i_o, there,
                    stored,
                )  # fmt: skip
                if POOL:
                    for window in tl.static_range(4):
                        b_g = tl.where(b_open == FIRST + window, b_dy.to(tl.float32), 0.0)
                        b_0, b_1, b_2, b_3 = add_back(
                            b_0, b_1, b_2, b_3, b_g, b_w, place // 2 * 2 + window // 2, place % 2 * 2 + window % 2
                        )  # fmt: skip
                else:
                    b_g = tl.where(b_open == FIRST, b_dy.to(tl.float32), 0.0)
                    b_0, b_1, b_2, b_3 = add_back(b_0, b_1, b_2, b_3, b_g, b_w, place // 4, place % 4)
        p_at, i_start = p_dx + i_image * stride, i_more * stride
        i_y, i_x = i_block_y * 2 - padding, i_block_x * 2 - padding
        store_sums(p_at, b_0, scale, i_start, i_y, i_x, inside, height, width, CHANNELS)
        store_sums(p_at, b_1, scale, i_start, i_y, i_x + 1, inside, height, width, CHANNELS)
        store_sums(p_at, b_2, scale, i_start, i_y + 1, i_x, inside, height, width, CHANNELS)
        store_sums(p_at, b_3, scale, i_start, i_y + 1, i_x + 1, inside, height, width, CHANNELS)
