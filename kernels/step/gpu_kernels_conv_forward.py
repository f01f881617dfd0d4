"""The convolution block's forward pass as a Triton kernel; `gpu_convolution` launches it and explains its arguments."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from ..dropout.gpu_kernels import random_bytes, random_bytes_at, scale_of
from .gpu_kernels_conv_tiles import (
    BIAS,
    CHANNELS,
    CLOSED,
    DROPOUT,
    FILTERS,
    HEIGHT,
    MEMBER,
    PADDING,
    RATE,
    SCALED,
    STORED,
    STRIDE,
    WEIGHT,
    WIDTH,
    X,
    Y,
    find_rows,
    layer_of,
    load_tap,
    offset,
    out_sides,
    pixel_offsets,
    size,
    split_rows,
)


@triton.jit
def activate(b_z, ACTIVATION: tl.constexpr):
    """Activation and its derivative; NaN stays NaN."""
    if ACTIVATION == "relu":
        return tl.where(b_z <= 0, 0.0, b_z), b_z
    elif ACTIVATION == "sigmoid":
        b_y = tl.sigmoid(b_z)
        return b_y, b_y * (1 - b_y)
    elif ACTIVATION == "tanh":
        b_y = 2 * tl.sigmoid(2 * b_z) - 1
        return b_y, 1 - b_y * b_y
    else:
        tl.static_assert(ACTIVATION == "gelu")
        b_share = 0.5 * (1 + tl.erf(b_z * 0.7071067811865476))
        return b_z * b_share, b_share + b_z * tl.exp(-0.5 * b_z * b_z) * 0.3989422804014327


@triton.jit
def pool(b_0, b_1, b_2, b_3, ACTIVATION: tl.constexpr):
    """The first of the largest activations, as its pre-activation, and its window; NaN is larger than all."""
    b_best, b_window = b_0, tl.zeros(b_0.shape, tl.int32)
    b_top = b_best
    if ACTIVATION == "gelu":
        b_top, _ = activate(b_best, ACTIVATION)
    for window in tl.static_range(1, 4):
        b_z = b_1 if window == 1 else (b_2 if window == 2 else b_3)
        b_y = b_z
        # The others rise with their argument; GELU falls first.
        if ACTIVATION == "gelu":
            b_y, _ = activate(b_z, ACTIVATION)
        b_larger = (b_y > b_top) | (b_y != b_y)
        b_best = tl.where(b_larger, b_z, b_best)
        b_top = tl.where(b_larger, b_y, b_top)
        b_window = tl.where(b_larger, window, b_window)
    return b_best, b_window


@triton.jit
def dropped_at(p_key, p_step, p_layer, i_at, i_o, o_tile, WHOLE: tl.constexpr):
    """Whether op dropout drops positions [ROWS, len(i_o)]; i_at [ROWS] is where each row's filter 0 counts."""
    key, step, index = tl.load(p_key), tl.load(p_step), tl.load(p_layer + DROPOUT)
    rate = tl.load(p_layer + RATE).to(tl.int32)
    if WHOLE:
        COLUMNS: tl.constexpr = i_o.shape[0] // 16
        i_block = (i_at // 16)[:, None] + (o_tile * COLUMNS + tl.arange(0, COLUMNS))[None, :]
        b_bytes = random_bytes(key, step, index, tl.ravel(i_block.to(tl.int32)))
        return tl.reshape(b_bytes, (i_at.shape[0], i_o.shape[0])) < rate
    else:
        return random_bytes_at(key, step, index, i_at[:, None] + i_o[None, :]) < rate


@triton.jit
def finish(
    b_z, b_window, p_y, p_saved, p_slopes, p_key, p_step, p_layer, i_pixel, i_o, o_tile, inside, filters, stored,
    WHOLE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Activate, drop and store one position a row (the member's i_pixel-th), and what the backward pass needs of it."""
    b_y, b_slope = activate(b_z, ACTIVATION)
    b_closed = tl.zeros(b_z.shape, tl.int1)
    if not WHOLE:
        # What fills filters up to a multiple of 16 is zero and takes no gradient.
        b_closed = tl.broadcast_to((i_o >= filters)[None, :], b_z.shape)
        b_y = tl.where(b_closed, 0.0, b_y)
    if ACTIVATION == "relu":
        b_closed = b_closed | (b_z <= 0)
    if p_key is not None:
        b_dropped = dropped_at(p_key, p_step, p_layer, i_pixel * filters, i_o, o_tile, WHOLE)
        scale = scale_of(tl.load(p_layer + RATE))
        b_y = tl.where(b_dropped, 0.0, b_y * scale)
        b_slope = tl.where(b_dropped, 0.0, b_slope * scale)
        b_closed = b_closed | b_dropped
        b_window = b_window + SCALED
    i_at = (i_pixel * stored)[:, None] + i_o[None, :]
    inside = inside[:, None] & (i_o < stored)[None, :]
    tl.store(p_y + i_at, b_y.to(p_y.dtype.element_ty), mask=inside)
    tl.store(p_saved + i_at, tl.where(b_closed, CLOSED, b_window).to(tl.uint8), mask=inside)
    if p_slopes is not None:
        tl.store(p_slopes + i_at, b_slope.to(p_slopes.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["images"])
def forward_kernel(
    p_x, p_weight, p_bias, p_y, p_saved, p_slopes, p_keys, p_step, p_layers, p_tiles, images,
    SIZES: tl.constexpr, ALIGNED: tl.constexpr, POOL: tl.constexpr, ACTIVATION: tl.constexpr, WHOLE: tl.constexpr,
    WITHIN: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
    FAR: tl.constexpr,
):  # fmt: skip
    """A tap of all four windows of all blocks is one product: they are summed in the order of channels, then taps."""
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = layer_of(p_layers, p_tile)
    height, width = size(p_layer, HEIGHT, SIZES, False), size(p_layer, WIDTH, SIZES, False)
    padding = size(p_layer, PADDING, SIZES, False)
    channels, stride = size(p_layer, CHANNELS, SIZES, ALIGNED), size(p_layer, STRIDE, SIZES, True)
    filters, stored = size(p_layer, FILTERS, SIZES, WHOLE), size(p_layer, STORED, SIZES, True)
    out_y, out_x, blocks_y, blocks_x = out_sides(height, width, padding, POOL)
    o_tile = tl.load(p_tile + 2)
    i_o = o_tile * BLOCK_O + tl.arange(0, BLOCK_O)
    p_x, p_weight = p_x + offset(p_layer, X), p_weight + offset(p_layer, WEIGHT)
    # All positions of the tile. Upper and lower ones of a block lie half a tile apart, left and right ones 8 rows: so a
    # thread of a warp group has the sums of all four.
    i_row = tl.arange(0, 4 * ROWS)
    i_number = i_row % (2 * ROWS) // 16 * 8 + i_row % 8
    i_image, i_out_y, i_out_x, inside = find_rows(images, blocks_y, blocks_x, ROWS, tl.load(p_tile + 1), i_number, FAR)
    i_out_y, i_out_x = i_out_y * 2 + i_row // (2 * ROWS), i_out_x * 2 + i_row // 8 % 2
    i_y, i_x, i_start = i_out_y - padding, i_out_x - padding, i_image * stride
    b_z = tl.zeros((4 * ROWS, BLOCK_O), tl.float32)
    p_pixel = p_x + (i_start + (i_y * width + i_x) * channels)
    for turn in tl.range(0, (channels + BLOCK_C - 1) // BLOCK_C * 9):
        tap, i_c = turn % 9, turn // 9 * BLOCK_C + tl.arange(0, BLOCK_C)
        row, column = tap // 3, tap % 3
        there = inside
        if not WITHIN:
            there = there & (i_y + row >= 0) & (i_y + row < height) & (i_x + column >= 0) & (i_x + column < width)
        i_at = (row * width + column) * channels + i_c
        b_x = tl.load(p_pixel[:, None] + i_at[None, :], mask=there[:, None] & (i_c < channels)[None, :], other=0.0)
        b_w = load_tap(p_weight, tap, i_c, i_o, channels, stored)
        b_z = tl.dot(b_x, b_w, b_z, input_precision=PRECISION)
    b_z += tl.load(p_bias + offset(p_layer, BIAS) + i_o, mask=i_o < stored, other=0.0)[None, :]
    i_at = offset(p_layer, Y)
    p_y, p_saved = p_y + i_at, p_saved + i_at
    if p_slopes is not None:
        p_slopes += i_at
    if p_keys is not None:
        p_keys += tl.load(p_layer + MEMBER)
    if POOL:
        i_image, i_block_y, i_block_x, inside = split_rows(images, blocks_y, blocks_x, ROWS, tl.load(p_tile + 1), FAR)
        i_pixel = i_image * (blocks_y * blocks_x) + (i_block_y * blocks_x + i_block_x)
        b_z = tl.permute(tl.reshape(b_z, (2, ROWS // 8, 2, 8, BLOCK_O)), (1, 3, 4, 0, 2))
        b_left, b_right = tl.split(tl.reshape(b_z, (ROWS, BLOCK_O, 2, 2)))
        b_0, b_2 = tl.split(b_left)
        b_1, b_3 = tl.split(b_right)
        b_z, b_window = pool(b_0, b_1, b_2, b_3, ACTIVATION)
    else:
        i_pixel, inside = pixel_offsets(i_image * (out_y * out_x), i_out_y, i_out_x, inside, out_y, out_x, 1)
        b_window = tl.zeros((4 * ROWS, BLOCK_O), tl.int32)
    finish(
        b_z, b_window, p_y, p_saved, p_slopes, p_keys, p_step, p_layer, i_pixel, i_o, o_tile, inside, filters, stored,
        WHOLE, ACTIVATION,
    )  # fmt: skip
