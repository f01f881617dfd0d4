"""The convolution block's gradients as Triton kernels; `gpu_convolution` launches them and explains their arguments."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from ..dropout.gpu_kernels import scale_of
from .gpu_kernels_conv_tiles import (
    BIAS,
    CHANNELS,
    CLOSED,
    DX,
    HEIGHT,
    PADDING,
    RATE,
    SCALED,
    SCRATCH,
    SPLITS,
    STORED,
    STRIDE,
    TURNS,
    WEIGHT,
    WIDTH,
    WINDOW,
    X,
    Y,
    add_row,
    layer_of,
    load_tap,
    load_window,
    offset,
    out_sides,
    pixel_offsets,
    size,
    split_rows,
)


@triton.jit
def load_gradient(p_dy, p_saved, p_slopes, scale, i_at, i_o, inside, stored):
    """The gradient before the activation, float32 [ROWS, len(i_o)], and the window it belongs to (CLOSED: none)."""
    i_at = i_at[:, None] + i_o[None, :]
    inside = inside[:, None] & (i_o < stored)[None, :]
    b_saved = tl.load(p_saved + i_at, mask=inside, other=CLOSED).to(tl.int32)
    b_dy = tl.load(p_dy + i_at, mask=inside, other=0.0).to(tl.float32)
    if p_slopes is not None:
        b_dy *= tl.load(p_slopes + i_at, mask=inside, other=0.0).to(tl.float32)
    else:
        b_dy = tl.where((b_saved & SCALED) != 0, b_dy * scale, b_dy)
    return b_dy, b_saved & WINDOW


@triton.jit
def load_pair(
    p_dy, p_saved, p_slopes, scale, i_start, i_block_y, i_block_x, row, i_o, inside, out_y, out_x, stored,
    POOL: tl.constexpr,
):  # fmt: skip
    """Gradients before the pool of the left and right position in row 0 or 1 of each block."""
    if POOL:
        i_at, inside = pixel_offsets(i_start, i_block_y, i_block_x, inside, out_y // 2, out_x // 2, stored)
        b_dy, b_window = load_gradient(p_dy, p_saved, p_slopes, scale, i_at, i_o, inside, stored)
        return tl.where(b_window == row * 2, b_dy, 0.0), tl.where(b_window == row * 2 + 1, b_dy, 0.0)
    else:
        i_y = i_block_y * 2 + row
        i_at, there = pixel_offsets(i_start, i_y, i_block_x * 2, inside, out_y, out_x, stored)
        b_left, b_open = load_gradient(p_dy, p_saved, p_slopes, scale, i_at, i_o, there, stored)
        b_left = tl.where(b_open == 0, b_left, 0.0)
        i_at, there = pixel_offsets(i_start, i_y, i_block_x * 2 + 1, inside, out_y, out_x, stored)
        b_right, b_open = load_gradient(p_dy, p_saved, p_slopes, scale, i_at, i_o, there, stored)
        return b_left, tl.where(b_open == 0, b_right, 0.0)


@triton.jit
def load_patch_taps(p_weight, row, column, i_k, i_n, channels, stored):
    """Weights that lead from patch position (row, column) back to a block's 2x2 pixels of at most 4 channels."""
    i_y, i_x, i_c = 2 - row + i_n // 8, 2 - column + i_n // 4 % 2, i_n % 4
    there = (i_y >= 0) & (i_y < 3) & (i_x >= 0) & (i_x < 3) & (i_c < channels)
    i_at = ((i_y * 3 + i_x) * channels + i_c) * stored
    inside = (i_k < stored)[:, None] & there[None, :]
    return tl.load(p_weight + i_at[None, :] + i_k[:, None], mask=inside, other=0.0)


@triton.jit
def store_pixels(p_dx, b_dx, i_start, i_y, i_x, i_c, inside, height, width, channels):
    """Store one pixel a row where it lies within its image."""
    i_at, inside = pixel_offsets(i_start, i_y, i_x, inside, height, width, channels)
    inside = inside[:, None] & (i_c < channels)[None, :]
    tl.store(p_dx + i_at[:, None] + i_c[None, :], b_dx.to(p_dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["images"])
def input_gradient_kernel(
    p_dy, p_saved, p_slopes, p_weight, p_dx, p_layers, p_tiles, images,
    SIZES: tl.constexpr, ALIGNED: tl.constexpr, POOL: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr, FEW: tl.constexpr, UNROLL: tl.constexpr,
    FAR: tl.constexpr,
):  # fmt: skip
    """Blocks are of the input here, shifted so that a patch of gradients is four whole blocks of the output."""
    DTYPE: tl.constexpr = p_weight.dtype.element_ty
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = layer_of(p_layers, p_tile)
    height, width = size(p_layer, HEIGHT, SIZES, False), size(p_layer, WIDTH, SIZES, False)
    padding, stride = size(p_layer, PADDING, SIZES, False), size(p_layer, STRIDE, SIZES, True)
    channels, stored = size(p_layer, CHANNELS, SIZES, ALIGNED), size(p_layer, STORED, SIZES, True)
    out_y, out_x, pooled_y, pooled_x = out_sides(height, width, padding, POOL)
    y_stride = (pooled_y * pooled_x if POOL else out_y * out_x) * stored
    blocks_y, blocks_x = (height + 1 + padding) // 2, (width + 1 + padding) // 2
    i_image, i_block_y, i_block_x, inside = split_rows(images, blocks_y, blocks_x, ROWS, tl.load(p_tile + 1), FAR)
    i_y, i_x = i_block_y * 2 - padding, i_block_x * 2 - padding
    i_at, i_start, scale = offset(p_layer, Y), i_image * y_stride, scale_of(tl.load(p_layer + RATE))
    p_dy, p_saved = p_dy + i_at, p_saved + i_at
    if p_slopes is not None:
        p_slopes += i_at
    p_weight, p_dx = p_weight + offset(p_layer, WEIGHT), p_dx + offset(p_layer, DX)
    i_first = i_image * stride
    i_c = tl.load(p_tile + 2) * BLOCK_C + tl.arange(0, BLOCK_C)
    b_0 = tl.zeros((ROWS, BLOCK_C), tl.float32)
    b_1, b_2, b_3 = b_0, b_0, b_0
    for first in tl.range(0, stored, BLOCK_O):
        i_o = first + tl.arange(0, BLOCK_O)
        if FEW:
            for row in tl.range(0, 4, loop_unroll_factor=UNROLL):
                for side in tl.static_range(2):
                    b_left, b_right = load_pair(
                        p_dy, p_saved, p_slopes, scale, i_start, i_block_y - 1 + row // 2, i_block_x - 1 + side,
                        row % 2, i_o, inside, out_y, out_x, stored, POOL,
                    )  # fmt: skip
                    b_w = load_patch_taps(p_weight, row, side * 2, i_o, i_c, channels, stored)
                    b_0 = tl.dot(b_left.to(DTYPE), b_w, b_0, input_precision=PRECISION)
                    b_w = load_patch_taps(p_weight, row, side * 2 + 1, i_o, i_c, channels, stored)
                    b_0 = tl.dot(b_right.to(DTYPE), b_w, b_0, input_precision=PRECISION)
        else:
            for tap in tl.range(0, 3, loop_unroll_factor=UNROLL):
                b_w0 = tl.trans(load_tap(p_weight, 8 - tap * 3, i_c, i_o, channels, stored))
                b_w1 = tl.trans(load_tap(p_weight, 7 - tap * 3, i_c, i_o, channels, stored))
                b_w2 = tl.trans(load_tap(p_weight, 6 - tap * 3, i_c, i_o, channels, stored))
                for down in tl.static_range(2):
                    row = tap + down
                    b_g0, b_g1 = load_pair(
                        p_dy, p_saved, p_slopes, scale, i_start, i_block_y - 1 + row // 2, i_block_x - 1, row % 2,
                        i_o, inside, out_y, out_x, stored, POOL,
                    )  # fmt: skip
                    b_g2, b_g3 = load_pair(
                        p_dy, p_saved, p_slopes, scale, i_start, i_block_y - 1 + row // 2, i_block_x, row % 2,
                        i_o, inside, out_y, out_x, stored, POOL,
                    )  # fmt: skip
                    b_g0, b_g1, b_g2, b_g3 = b_g0.to(DTYPE), b_g1.to(DTYPE), b_g2.to(DTYPE), b_g3.to(DTYPE)
                    if down == 0:
                        b_0, b_1 = add_row(b_0, b_1, b_g0, b_g1, b_g2, b_g3, b_w0, b_w1, b_w2, PRECISION)
                    else:
                        b_2, b_3 = add_row(b_2, b_3, b_g0, b_g1, b_g2, b_g3, b_w0, b_w1, b_w2, PRECISION)
    if FEW:
        i_n = tl.arange(0, BLOCK_C)
        i_y, i_x = i_y[:, None] + (i_n // 8)[None, :], i_x[:, None] + (i_n // 4 % 2)[None, :]
        i_at, inside = pixel_offsets(i_first[:, None], i_y, i_x, inside[:, None], height, width, channels)
        inside = inside & (i_n % 4 < channels)[None, :]
        tl.store(p_dx + i_at + (i_n % 4)[None, :], b_0.to(p_dx.dtype.element_ty), mask=inside)
    else:
        store_pixels(p_dx, b_0, i_first, i_y, i_x, i_c, inside, height, width, channels)
        store_pixels(p_dx, b_1, i_first, i_y, i_x + 1, i_c, inside, height, width, channels)
        store_pixels(p_dx, b_2, i_first, i_y + 1, i_x, i_c, inside, height, width, channels)
        store_pixels(p_dx, b_3, i_first, i_y + 1, i_x + 1, i_c, inside, height, width, channels)


@triton.jit
def load_patch_row(p_x, i_start, i_y, i_x, i_k, inside, height, width, channels):
    """Four pixels side by side from (i_y, i_x) on, [ROWS, len(i_k)], all their channels; zeros around the image."""
    i_at = i_start + (i_y * width + i_x) * channels
    i_column = i_x[:, None] + (i_k // channels)[None, :]
    inside = (inside & (i_y >= 0) & (i_y < height))[:, None] & (i_column >= 0) & (i_column < width)
    inside = inside & (i_k < 4 * channels)[None, :]
    return tl.load(p_x + i_at[:, None] + i_k[None, :], mask=inside, other=0.0)


@triton.jit(do_not_specialize=["images"])
def weight_gradient_kernel(
    p_dy, p_saved, p_slopes, p_x, p_scratch, p_layers, p_tiles, images,
    SIZES: tl.constexpr, ALIGNED: tl.constexpr, POOL: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr, FEW: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """Every so many tiles of a member's images, summed into a slab of its own.

    A slab is [9 * channels, stored filters] weights, then biases, where channels are few. Else a program takes one row
    of taps and multiplies whole patch rows of four pixels, which lie together in memory: [3, 2, 4 * channels, stored
    filters], for a block's left and right positions apart, so that pixel i is tap i of the left ones and tap i - 1 of
    the right ones.
    """
    DTYPE: tl.constexpr = p_x.dtype.element_ty
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = layer_of(p_layers, p_tile)
    height, width = size(p_layer, HEIGHT, SIZES, False), size(p_layer, WIDTH, SIZES, False)
    padding, stride = size(p_layer, PADDING, SIZES, False), size(p_layer, STRIDE, SIZES, True)
    channels, stored = size(p_layer, CHANNELS, SIZES, ALIGNED), size(p_layer, STORED, SIZES, True)
    out_y, out_x, blocks_y, blocks_x = out_sides(height, width, padding, POOL)
    y_stride = (blocks_y * blocks_x if POOL else out_y * out_x) * stored
    i_tile, i_split = tl.load(p_tile + 1), tl.load(p_tile + 2)
    tap, k_tile, o_tile = 0, 0, i_tile
    length = 9 * channels
    if not FEW:
        length = 4 * channels
        k_tiles = (length + BLOCK_K - 1) // BLOCK_K
        tap, k_tile, o_tile = i_tile % 3, i_tile // 3 % k_tiles, i_tile // (3 * k_tiles)
    i_k = k_tile * BLOCK_K + tl.arange(0, BLOCK_K)
    i_o = o_tile * BLOCK_O + tl.arange(0, BLOCK_O)
    i_at, scale = offset(p_layer, Y), scale_of(tl.load(p_layer + RATE))
    p_dy, p_saved = p_dy + i_at, p_saved + i_at
    if p_slopes is not None:
        p_slopes += i_at
    p_x += offset(p_layer, X)
    # One program in so many has the bias; the others would sum up what nobody reads.
    sums_bias = tap + k_tile == 0
    b_left = tl.zeros((BLOCK_K, BLOCK_O), tl.float32)
    b_right = b_left
    b_bias = tl.zeros((BLOCK_O,), tl.float32)
    turns, splits = tl.load(p_layer + TURNS).to(tl.int32), tl.load(p_layer + SPLITS).to(tl.int32)
    for i_turn in tl.range(i_split, turns, splits):
        i_image, i_block_y, i_block_x, inside = split_rows(images, blocks_y, blocks_x, ROWS, i_turn, FAR)
        i_y, i_x = i_block_y * 2 - padding, i_block_x * 2 - padding
        i_first, i_start = i_image * stride, i_image * y_stride
        for row in tl.static_range(2):
            b_g0, b_g1 = load_pair(
                p_dy, p_saved, p_slopes, scale, i_start, i_block_y, i_block_x, row, i_o, inside,
                out_y, out_x, stored, POOL,
            )  # fmt: skip
            if sums_bias:
                b_bias += tl.sum(b_g0 + b_g1, 0)
            b_g0, b_g1 = b_g0.to(DTYPE), b_g1.to(DTYPE)
            if FEW:
                b_x = load_window(p_x, i_first, i_y + row, i_x, i_k, inside, height, width, channels)
                b_left = tl.dot(tl.trans(b_x), b_g0, b_left, input_precision=PRECISION)
                b_x = load_window(p_x, i_first, i_y + row, i_x + 1, i_k, inside, height, width, channels)
                b_left = tl.dot(tl.trans(b_x), b_g1, b_left, input_precision=PRECISION)
            else:
                b_x = load_patch_row(p_x, i_first, i_y + (row + tap), i_x, i_k, inside, height, width, channels)
                b_left = tl.dot(tl.trans(b_x), b_g0, b_left, input_precision=PRECISION)
                b_right = tl.dot(tl.trans(b_x), b_g1, b_right, input_precision=PRECISION)
    biases = length * (1 if FEW else 6) * stored
    p_scratch += offset(p_layer, SCRATCH) + i_split.to(tl.int64) * (biases + stored)
    there = i_o < stored
    inside = (i_k < length)[:, None] & there[None, :]
    i_at = (i_k * stored)[:, None] + i_o[None, :]
    if FEW:
        tl.store(p_scratch + i_at, b_left, mask=inside)
        tl.store(p_scratch + biases + i_o, b_bias, mask=there)
    else:
        tl.store(p_scratch + tap * (2 * length * stored) + i_at, b_left, mask=inside)
        tl.store(p_scratch + (tap * 2 + 1) * (length * stored) + i_at, b_right, mask=inside)
        if sums_bias:
            tl.store(p_scratch + biases + i_o, b_bias, mask=there)


@triton.jit
def reduce_kernel(
    p_scratch, p_dweight, p_dbias, p_layers, p_tiles,
    SIZES: tl.constexpr, ALIGNED: tl.constexpr, FEW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum a layer's slabs in their order."""
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = layer_of(p_layers, p_tile)
    channels, stored = size(p_layer, CHANNELS, SIZES, ALIGNED), size(p_layer, STORED, SIZES, True)
    pixel = channels * stored
    weights = 9 * pixel
    biases = weights if FEW else 24 * pixel
    i_at = tl.load(p_tile + 1) * BLOCK + tl.arange(0, BLOCK)
    is_weight, there = i_at < weights, i_at < weights + stored
    i_from = i_at
    if not FEW:
        i_from = i_at // (3 * pixel) * (8 * pixel) + i_at % (3 * pixel)
    i_from = tl.where(is_weight, i_from, i_at - weights + biases)
    b_sum = tl.zeros((BLOCK,), tl.float32)
    p_slab = p_scratch + offset(p_layer, SCRATCH)
    for _ in tl.range(0, tl.load(p_layer + SPLITS).to(tl.int32)):
        b_sum += tl.load(p_slab + i_from, mask=there, other=0.0)
        if not FEW:
            b_sum += tl.load(p_slab + i_from + 5 * pixel, mask=is_weight, other=0.0)
        p_slab += biases + stored
    tl.store(p_dweight + offset(p_layer, WEIGHT) + i_at, b_sum, mask=is_weight)
    tl.store(p_dbias + offset(p_layer, BIAS) + (i_at - weights), b_sum, mask=there & ~is_weight)
