"""The forward pass of a convolution of images as a Triton kernel; `gpu_convolution` launches it."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from .gpu_kernels_conv_finish import finish, pool
from .gpu_kernels_conv_first_tiles import first_image, load_patch, load_pixels, load_weights, split_near, tiles_left
from .gpu_kernels_conv_tiles import (
    BIAS,
    FILTERS,
    MEMBER,
    STORED,
    STRIDE,
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
def add_taps(b_0, b_1, b_2, b_3, b_x, b_w):
    """Add nine products to the sum of each window."""
    for row in tl.static_range(3):
        for column in tl.static_range(3):
            b_k = b_w[row * 3 + column]
            b_0 += b_x[row][column][:, None] * b_k
            b_1 += b_x[row][column + 1][:, None] * b_k
            b_2 += b_x[row + 1][column][:, None] * b_k
            b_3 += b_x[row + 1][column + 1][:, None] * b_k
    return b_0, b_1, b_2, b_3


@triton.jit
def largest(b_0, b_1, b_2, b_3):
    """What `pool` finds where the activation rises with its argument; but the window of a NaN may be a later one."""
    b_window = tl.where(b_1 <= b_0, 0, 1)
    b_best = tl.maximum(b_0, b_1, propagate_nan=tl.PropagateNan.ALL)
    b_window = tl.where(b_2 <= b_best, b_window, 2)
    b_best = tl.maximum(b_best, b_2, propagate_nan=tl.PropagateNan.ALL)
    b_window = tl.where(b_3 <= b_best, b_window, 3)
    return tl.maximum(b_best, b_3, propagate_nan=tl.PropagateNan.ALL), b_window


@triton.jit
def product_rows(ROWS: tl.constexpr):
    """The block of each row of a product: see `in_order`."""
    i_m = tl.arange(0, ROWS)
    return i_m // 8 % 2 * (ROWS // 2) + i_m // 16 * 8 + i_m % 8


@triton.jit
def product_filters(BLOCK_O: tl.constexpr):
    """The filter of each column of a product."""
    i_n = tl.arange(0, BLOCK_O)
    return i_n // 2 % 4 * (BLOCK_O // 4) + i_n // 8 * 2 + i_n % 2


@triton.jit
def in_order(b_sum):
    """Blocks and filters of a product in their order again.

    A thread holds pairs of a product's columns, 8 apart; in this order they are filters side by side, and rows are
    where stores want them, so that nothing need be moved between threads.
    """
    ROWS: tl.constexpr = b_sum.shape[0]
    BLOCK_O: tl.constexpr = b_sum.shape[1]
    b_sum = tl.reshape(b_sum, (ROWS // 16, 2, 8, BLOCK_O // 8, 4, 2))
    return tl.reshape(tl.permute(b_sum, (1, 0, 2, 4, 3, 5)), (ROWS, BLOCK_O))


@triton.jit
def load_spread(p_weight, WINDOW_Y: tl.constexpr, WINDOW_X: tl.constexpr, i_k, i_o, stored, CHANNELS: tl.constexpr):
    """Weights of a window for all 4x4 pixels [len(i_k), len(i_o)]; zeros for those that it does not see."""
    i_y, i_x = i_k // (4 * CHANNELS) - WINDOW_Y, i_k // CHANNELS % 4 - WINDOW_X
    there = (i_y >= 0) & (i_y < 3) & (i_x >= 0) & (i_x < 3)
    i_at = ((i_y * 3 + i_x) * CHANNELS + i_k % CHANNELS) * stored
    return tl.load(p_weight + i_at[:, None] + i_o[None, :], mask=there[:, None] & (i_o < stored)[None, :], other=0.0)


@triton.jit(do_not_specialize=["images"])
def first_forward_kernel(
    p_x, p_weight, p_bias, p_y, p_saved, p_slopes, p_keys, p_step, p_layers, p_tiles, images,
    SIZES: tl.constexpr, CHANNELS: tl.constexpr, POOL: tl.constexpr, ACTIVATION: tl.constexpr, WHOLE: tl.constexpr,
    WITHIN: tl.constexpr, ROWS: tl.constexpr, BLOCK_O: tl.constexpr, REPEAT: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """A program takes so many tiles of blocks one after the other (REPEAT), and loads its weights once."""
    PRODUCT: tl.constexpr = p_weight.dtype.element_ty.primitive_bitwidth == 16
    RISES: tl.constexpr = POOL and ACTIVATION != "gelu"
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = layer_of(p_layers, p_tile)
    height, width, padding = input_of(p_layer, SIZES)
    stride = size(p_layer, STRIDE, SIZES, True)
    filters, stored = size(p_layer, FILTERS, SIZES, WHOLE), size(p_layer, STORED, SIZES, True)
    out_y, out_x, blocks_y, blocks_x = out_sides(height, width, padding, POOL)
    pixels = blocks_y * blocks_x if POOL else out_y * out_x
    i_tile, o_tile = tl.load(p_tile + 1) * REPEAT, tl.load(p_tile + 2)
    i_o = o_tile * BLOCK_O + tl.arange(0, BLOCK_O)
    i_at = offset(p_layer, Y)
    p_y, p_saved = p_y + i_at, p_saved + i_at
    if p_slopes is not None:
        p_slopes += i_at
    if p_keys is not None:
        p_keys += tl.load(p_layer + MEMBER)
    p_x, p_weight = p_x + offset(p_layer, X), p_weight + offset(p_layer, WEIGHT)
    # Loaded as a whole tile, it decides how sums are spread over threads: 16 bytes of a position to each.
    i_bias = i_o[None, :] if PRODUCT else tl.zeros((ROWS, 1), tl.int32) + i_o[None, :]
    b_bias = tl.load(p_bias + offset(p_layer, BIAS) + i_bias, mask=i_bias < stored, other=0.0)
    if PRODUCT:
        BLOCK_K: tl.constexpr = 16 * CHANNELS if CHANNELS != 3 else 64
        i_k, i_n = tl.arange(0, BLOCK_K), o_tile * BLOCK_O + product_filters(BLOCK_O)
        b_w0 = load_spread(p_weight, 0, 0, i_k, i_n, stored, CHANNELS)
        b_w1 = load_spread(p_weight, 0, 1, i_k, i_n, stored, CHANNELS)
        b_w2 = load_spread(p_weight, 1, 0, i_k, i_n, stored, CHANNELS)
        b_w3 = load_spread(p_weight, 1, 1, i_k, i_n, stored, CHANNELS)
    elif CHANNELS == 1:
        b_w = load_weights(p_weight, 0, i_o, stored, CHANNELS)
    for turn in tl.range(0, tiles_left(images, blocks_y * blocks_x, ROWS, i_tile, REPEAT, FAR)):
        i_image, i_first, left = first_image(images, blocks_y * blocks_x, ROWS, i_tile + turn, FAR)
        i_more, i_block_y, i_block_x = split_near(i_first + tl.arange(0, ROWS), blocks_y * blocks_x, blocks_x)
        inside = i_more < left
        p_image = p_x + i_image * stride
        if PRODUCT:
            i_row, i_y, i_x = split_near(i_first + product_rows(ROWS), blocks_y * blocks_x, blocks_x)
            i_y, i_x = i_y * 2 - padding, i_x * 2 - padding
            b_x = load_pixels(p_image, i_row * stride, i_y, i_x, i_k, i_row < left, height, width, CHANNELS, WITHIN)
            b_0, b_1 = in_order(tl.dot(b_x, b_w0)), in_order(tl.dot(b_x, b_w1))
            b_2, b_3 = in_order(tl.dot(b_x, b_w2)), in_order(tl.dot(b_x, b_w3))
            if not RISES:
                b_0, b_1, b_2, b_3 = b_0 + b_bias, b_1 + b_bias, b_2 + b_bias, b_3 + b_bias
        else:
            b_0, b_1, b_2, b_3 = b_bias, b_bias, b_bias, b_bias
            i_y, i_x, i_start = i_block_y * 2 - padding, i_block_x * 2 - padding, i_more * stride
            for channel in tl.static_range(CHANNELS):
                b_x = load_patch(p_image + channel, i_start, i_y, i_x, inside, height, width, CHANNELS, WITHIN)
                if CHANNELS > 1:
                    b_w = load_weights(p_weight, channel, i_o, stored, CHANNELS)
                b_0, b_1, b_2, b_3 = add_taps(b_0, b_1, b_2, b_3, b_x, b_w)
        i_base, before = i_image * (pixels * stored), i_image * pixels
        p_y_at, p_saved_at, p_slopes_at = p_y + i_base, p_saved + i_base, p_slopes
        if p_slopes is not None:
            p_slopes_at = p_slopes + i_base
        if POOL:
            i_pixel = i_more * pixels + i_block_y * blocks_x + i_block_x
            if RISES:
                b_0, b_window = largest(b_0, b_1, b_2, b_3)
                if PRODUCT:
                    b_0 += b_bias
            else:
                b_0, b_window = pool(b_0, b_1, b_2, b_3, ACTIVATION)
            finish(
                b_0, b_window, p_y_at, p_saved_at, p_slopes_at, p_keys, p_step, p_layer, i_pixel, before, i_o, o_tile,
                inside, filters, stored, WHOLE, ACTIVATION, True,
            )  # fmt: skip
        else:
            b_window = tl.zeros((ROWS, BLOCK_O), tl.int32)
            for window in tl.static_range(4):
                b_z = b_0 if window == 0 else (b_1 if window == 1 else (b_2 if window == 2 else b_3))
                i_y, i_x = i_block_y * 2 + window // 2, i_block_x * 2 + window % 2
                i_pixel, there = i_more * pixels + i_y * out_x + i_x, inside & (i_y < out_y) & (i_x < out_x)
                finish(
                    b_z, b_window, p_y_at, p_saved_at, p_slopes_at, p_keys, p_step, p_layer, i_pixel, before, i_o,
                    o_tile, there, filters, stored, WHOLE, ACTIVATION, True,
                )  # fmt: skip
