"""The convolution block's forward pass as a Triton kernel; `gpu_convolution` launches it and explains its arguments."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from .gpu_kernels_conv_finish import finish, pool
from .gpu_kernels_conv_tiles import (
    BIAS,
    CHANNELS,
    FILTERS,
    MEMBER,
    STORED,
    STRIDE,
    WEIGHT,
    X,
    Y,
    find_rows,
    input_of,
    layer_of,
    load_tap,
    offset,
    out_sides,
    pixel_offsets,
    size,
    split_rows,
)


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
    height, width, padding = input_of(p_layer, SIZES)
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
        b_z, b_window, p_y, p_saved, p_slopes, p_keys, p_step, p_layer, i_pixel, 0, i_o, o_tile, inside, filters,
        stored, WHOLE, ACTIVATION, False,
    )  # fmt: skip
