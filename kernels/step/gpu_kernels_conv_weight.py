"""The weight gradient of a convolution of another layer's outputs as a Triton kernel; `gpu_convolution` launches it."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from ..dropout.gpu_kernels import scale_of
from .gpu_kernels_conv_gradients import load_block, passed, split_tile
from .gpu_kernels_conv_tiles import (
    CHANNELS,
    CLOSED,
    RATE,
    SCALED,
    SCRATCH,
    SPLITS,
    STORED,
    STRIDE,
    TURNS,
    X,
    Y,
    input_of,
    layer_of,
    offset,
    out_sides,
    size,
)


@triton.jit
def load_patch_row(p_x, i_start, i_y, i_x, i_k, inside, height, width, channels, WITHIN: tl.constexpr):
    """Four pixels side by side from (i_y, i_x) on, [ROWS, len(i_k)], all their channels; zeros around the image.

    WITHIN: whether no patch reaches out of its image.
    """
    i_at = i_start + (i_y * width + i_x) * channels
    if WITHIN:
        inside = inside[:, None]
    else:
        i_column = i_x[:, None] + (i_k // channels)[None, :]
        inside = (inside & (i_y >= 0) & (i_y < height))[:, None] & (i_column >= 0) & (i_column < width)
    inside = inside & (i_k < 4 * channels)[None, :]
    return tl.load(p_x + i_at[:, None] + i_k[None, :], mask=inside, other=0.0)


@triton.jit(do_not_specialize=["images"])
def weight_gradient_kernel(
    p_dy, p_saved, p_slopes, p_x, p_scratch, p_layers, p_tiles, images,
    SIZES: tl.constexpr, ALIGNED: tl.constexpr, POOL: tl.constexpr, DROPPED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr, WITHIN: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """Every so many tiles of a member's images, summed into a slab of its own.

    A program takes one row of taps and multiplies whole patch rows of four pixels, which lie together in memory. A slab
    is [3, 2, 4 * channels, stored filters], for a block's left and right positions apart, so that pixel i is tap i of
    the left ones and tap i - 1 of the right ones; then biases.
    """
    DTYPE: tl.constexpr = p_x.dtype.element_ty
    OPEN: tl.constexpr = SCALED if DROPPED else 0
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = layer_of(p_layers, p_tile)
    height, width, padding = input_of(p_layer, SIZES)
    stride = size(p_layer, STRIDE, SIZES, True)
    channels, stored = size(p_layer, CHANNELS, SIZES, ALIGNED), size(p_layer, STORED, SIZES, True)
    out_y, out_x, blocks_y, blocks_x = out_sides(height, width, padding, POOL)
    y_stride = (blocks_y * blocks_x if POOL else out_y * out_x) * stored
    i_tile, i_split = tl.load(p_tile + 1), tl.load(p_tile + 2)
    length = 4 * channels
    k_tiles = (length + BLOCK_K - 1) // BLOCK_K
    tap, k_tile, o_tile = i_tile % 3, i_tile // 3 % k_tiles, i_tile // (3 * k_tiles)
    i_k = k_tile * BLOCK_K + tl.arange(0, BLOCK_K)
    i_o = o_tile * BLOCK_O + tl.arange(0, BLOCK_O)
    i_at = offset(p_layer, Y)
    p_dy, p_saved = p_dy + i_at, p_saved + i_at
    if p_slopes is not None:
        p_slopes += i_at
    p_x += offset(p_layer, X)
    # One program in so many has the bias; the others would sum up what nobody reads.
    sums_bias = tap + k_tile == 0
    b_left = tl.zeros((BLOCK_K, BLOCK_O), tl.float32)
    b_right = b_left
    b_bias = tl.zeros((ROWS, BLOCK_O), tl.float32)
    turns, splits = tl.load(p_layer + TURNS).to(tl.int32), tl.load(p_layer + SPLITS).to(tl.int32)
    for i_turn in tl.range(i_split, turns, splits):
        i_image, i_more, i_block_y, i_block_x, inside = split_tile(images, blocks_y, blocks_x, ROWS, i_turn, FAR)
        i_at = i_image * y_stride
        p_dy_t, p_saved_t, p_slopes_t, p_x_t = p_dy + i_at, p_saved + i_at, p_slopes, p_x + i_image * stride
        if p_slopes is not None:
            p_slopes_t += i_at
        i_y, i_x, i_start = i_block_y * 2 - padding + tap, i_block_x * 2 - padding, i_more * stride
        b_dy, b_saved = load_block(
            p_dy_t, p_saved_t, p_slopes_t, i_more * y_stride, i_block_y, i_block_x, i_o, inside, out_y, out_x, stored,
            POOL, DTYPE,
        )  # fmt: skip
        b_g0 = passed(b_dy[0], b_saved[0], OPEN)
        b_g1 = passed(b_dy[1], b_saved[1], OPEN + 1 if POOL else OPEN)
        b_g2 = passed(b_dy[2], b_saved[2], OPEN + 2 if POOL else OPEN)
        b_g3 = passed(b_dy[3], b_saved[3], OPEN + 3 if POOL else OPEN)
        if sums_bias and POOL:
            b_bias += tl.where(b_saved[0] != CLOSED, b_dy[0], 0.0)
        elif sums_bias:
            b_bias += b_g0.to(tl.float32) + b_g1.to(tl.float32) + b_g2.to(tl.float32) + b_g3.to(tl.float32)
        b_x = load_patch_row(p_x_t, i_start, i_y, i_x, i_k, inside, height, width, channels, WITHIN)
        b_left = tl.dot(tl.trans(b_x), b_g0, b_left, input_precision=PRECISION)
        b_right = tl.dot(tl.trans(b_x), b_g1, b_right, input_precision=PRECISION)
        b_x = load_patch_row(p_x_t, i_start, i_y + 1, i_x, i_k, inside, height, width, channels, WITHIN)
        b_left = tl.dot(tl.trans(b_x), b_g2, b_left, input_precision=PRECISION)
        b_right = tl.dot(tl.trans(b_x), b_g3, b_right, input_precision=PRECISION)
    if DROPPED and p_slopes is None:
        scale = scale_of(tl.load(p_layer + RATE))
        b_left, b_right, b_bias = b_left * scale, b_right * scale, b_bias * scale
    biases = 6 * length * stored
    p_scratch += offset(p_layer, SCRATCH) + i_split.to(tl.int64) * (biases + stored)
    there = i_o < stored
    inside = (i_k < length)[:, None] & there[None, :]
    i_at = (i_k * stored)[:, None] + i_o[None, :]
    tl.store(p_scratch + tap * (2 * length * stored) + i_at, b_left, mask=inside)
    tl.store(p_scratch + (tap * 2 + 1) * (length * stored) + i_at, b_right, mask=inside)
    if sums_bias:
        tl.store(p_scratch + biases + i_o, tl.sum(b_bias, 0), mask=there)
