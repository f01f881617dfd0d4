"""Shared code of the gradients of convolutions of other layers' outputs.

A gradient is read once a block: behind a pool it is one number for four positions, of which one has it, and the four
operands that the products ask for are chosen of it in registers. Its scale by dropout is that of a whole layer, so it
is applied to sums.
"""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from .gpu_kernels_conv_tiles import pixel_offsets


@triton.jit
def split_tile(images, blocks_y, blocks_x, ROWS: tl.constexpr, i_tile, FAR: tl.constexpr):
    """Where a tile's blocks lie: its first image (int64), and [ROWS] how many images further, block rows and columns.

    And which of them exist. What is counted from the first image on fits 32 bits.
    """
    blocks = blocks_y * blocks_x
    i_row = i_tile * ROWS
    if FAR:
        i_row = tl.cast(i_tile, tl.int64) * ROWS
    i_image = i_row // blocks
    i_row = (i_row - i_image * blocks).to(tl.int32) + tl.arange(0, ROWS)
    i_more = i_row // blocks
    i_block = i_row - i_more * blocks
    inside = i_more < (images - i_image).to(tl.int32)
    return i_image.to(tl.int64), i_more, i_block // blocks_x, i_block % blocks_x, inside


@triton.jit
def load_gradient(p_dy, p_saved, p_slopes, i_at, i_o, inside, stored, DTYPE: tl.constexpr):
    """The gradient before the activation, [ROWS, len(i_o)], and the byte that says whose it is."""
    i_at = i_at[:, None] + i_o[None, :]
    inside = inside[:, None] & (i_o < stored)[None, :]
    b_saved = tl.load(p_saved + i_at, mask=inside, other=0)  # where the gradient is 0 it does not matter
    b_dy = tl.load(p_dy + i_at, mask=inside, other=0.0)
    if p_slopes is not None:
        b_dy = b_dy.to(tl.float32) * tl.load(p_slopes + i_at, mask=inside, other=0.0).to(tl.float32)
    return b_dy.to(DTYPE), b_saved


@triton.jit
def load_block(
    p_dy, p_saved, p_slopes, i_start, i_block_y, i_block_x, i_o, inside, out_y, out_x, stored,
    POOL: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients and bytes of the four positions of each block; behind a pool they are all the same."""
    if POOL:
        i_at, there = pixel_offsets(i_start, i_block_y, i_block_x, inside, out_y // 2, out_x // 2, stored)
        b_dy, b_saved = load_gradient(p_dy, p_saved, p_slopes, i_at, i_o, there, stored, DTYPE)
        return (b_dy, b_dy, b_dy, b_dy), (b_saved, b_saved, b_saved, b_saved)
    else:
        i_y, i_x = i_block_y * 2, i_block_x * 2
        i_at, there = pixel_offsets(i_start, i_y, i_x, inside, out_y, out_x, stored)
        b_0, b_saved_0 = load_gradient(p_dy, p_saved, p_slopes, i_at, i_o, there, stored, DTYPE)
        i_at, there = pixel_offsets(i_start, i_y, i_x + 1, inside, out_y, out_x, stored)
        b_1, b_saved_1 = load_gradient(p_dy, p_saved, p_slopes, i_at, i_o, there, stored, DTYPE)
        i_at, there = pixel_offsets(i_start, i_y + 1, i_x, inside, out_y, out_x, stored)
        b_2, b_saved_2 = load_gradient(p_dy, p_saved, p_slopes, i_at, i_o, there, stored, DTYPE)
        i_at, there = pixel_offsets(i_start, i_y + 1, i_x + 1, inside, out_y, out_x, stored)
        b_3, b_saved_3 = load_gradient(p_dy, p_saved, p_slopes, i_at, i_o, there, stored, DTYPE)
        return (b_0, b_1, b_2, b_3), (b_saved_0, b_saved_1, b_saved_2, b_saved_3)


@triton.jit
def passed(b_dy, b_saved, byte: tl.constexpr, USE: tl.constexpr = 0):
    """The gradient of a position: that of its block where the byte says so.

    Each product of the same operand names it in words of its own (USE): Triton before and at 3.8 chooses it in the
    registers of the first of several equal ones alone, and fetches it out of shared memory for the others. In the end
    they are one again.
    """
    b_zero = tl.zeros(b_dy.shape, b_dy.dtype)
    if USE == 0:
        return tl.where(b_saved == byte, b_dy, b_zero)
    elif USE == 1:
        return tl.where((b_saved.to(tl.int32) ^ byte) == 0, b_dy, b_zero)
    elif USE == 2:
        return tl.where(b_saved.to(tl.int32) - byte == 0, b_dy, b_zero)
    else:
        return tl.where(b_saved.to(tl.int32) + 1 == byte + 1, b_dy, b_zero)
