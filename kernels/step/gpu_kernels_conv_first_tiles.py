"""Shared code of the Triton kernels of a convolution of images, which have one to four channels.

A row of nine products is too short for tensor cores, which exact float32 cannot use anyway: sums are elementwise, a
block of four positions a row (`gpu_kernels_conv_tiles`) and a filter a column. A block's 16 pixels are loaded once and
stay in registers. Of 16-bit operands the forward pass multiplies matrices, the pixels of a block, as they lie, by the
weights of each of its windows, with zeros for the pixels that the window does not see; and so does the weight gradient
of ReLU, the blocks' pixels by the gradients that each window passes.

All offsets within a tile are counted in 32 bits from its first image on.
"""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl


@triton.jit
def first_image(images, blocks, ROWS: tl.constexpr, i_tile, FAR: tl.constexpr):
    """A tile's first image (int64), the block in it that the tile begins with, and how many images are left.

    FAR: whether 32 bits cannot count a batch's blocks.
    """
    if FAR:
        i_far = tl.cast(i_tile, tl.int64) * ROWS
        i_image = i_far // blocks
        return i_image, (i_far - i_image * blocks).to(tl.int32), (images - i_image).to(tl.int32)
    else:
        i_first = i_tile * ROWS
        i_image = i_first // blocks
        return i_image.to(tl.int64), i_first - i_image * blocks, images - i_image


@triton.jit
def tiles_left(images, blocks, ROWS: tl.constexpr, i_tile, REPEAT: tl.constexpr, FAR: tl.constexpr):
    """How many of a program's tiles there are."""
    if FAR:
        left = tl.cast(images, tl.int64) * blocks - tl.cast(i_tile, tl.int64) * ROWS
    else:
        left = images * blocks - i_tile * ROWS
    return tl.minimum((left + ROWS - 1) // ROWS, REPEAT).to(tl.int32)


@triton.jit
def split_near(i_row, blocks, blocks_x):
    """Images from the tile's first one on, block row and block column of blocks [ROWS]."""
    i_more = i_row // blocks
    i_block = i_row - i_more * blocks
    i_block_y = i_block // blocks_x
    return i_more, i_block_y, i_block - i_block_y * blocks_x


@triton.jit
def load_pixel(
    p_x, i_at, i_y, i_x, ROW: tl.constexpr, COLUMN: tl.constexpr, inside, height, width, CHANNELS: tl.constexpr,
    WITHIN: tl.constexpr,
):  # fmt: skip
    """One of a patch that begins at (i_y, i_x), float32 [ROWS]; zeros around the image."""
    if not WITHIN:
        inside = inside & (i_y >= -ROW) & (i_y < height - ROW) & (i_x >= -COLUMN) & (i_x < width - COLUMN)
    return tl.load(p_x + (i_at + (ROW * width + COLUMN) * CHANNELS), mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_patch_row(
    p_x, i_at, i_y, i_x, ROW: tl.constexpr, inside, height, width, CHANNELS: tl.constexpr, WITHIN: tl.constexpr
):
    """Four pixels of one channel side by side."""
    return (
        load_pixel(p_x, i_at, i_y, i_x, ROW, 0, inside, height, width, CHANNELS, WITHIN),
        load_pixel(p_x, i_at, i_y, i_x, ROW, 1, inside, height, width, CHANNELS, WITHIN),
        load_pixel(p_x, i_at, i_y, i_x, ROW, 2, inside, height, width, CHANNELS, WITHIN),
        load_pixel(p_x, i_at, i_y, i_x, ROW, 3, inside, height, width, CHANNELS, WITHIN),
    )


@triton.jit
def load_patch(p_x, i_start, i_y, i_x, inside, height, width, CHANNELS: tl.constexpr, WITHIN: tl.constexpr):
    """The 4x4 pixels of each block, row by row."""
    # In 64 bits the distances between them are part of an instruction.
    i_at = (i_start + (i_y * width + i_x) * CHANNELS).to(tl.int64)
    return (
        load_patch_row(p_x, i_at, i_y, i_x, 0, inside, height, width, CHANNELS, WITHIN),
        load_patch_row(p_x, i_at, i_y, i_x, 1, inside, height, width, CHANNELS, WITHIN),
        load_patch_row(p_x, i_at, i_y, i_x, 2, inside, height, width, CHANNELS, WITHIN),
        load_patch_row(p_x, i_at, i_y, i_x, 3, inside, height, width, CHANNELS, WITHIN),
    )


@triton.jit
def load_weight(p_weight, TAP: tl.constexpr, channel, i_o, stored, CHANNELS: tl.constexpr):
    """Of one tap and channel, float32 [1, len(i_o)]."""
    at = (TAP * CHANNELS + channel) * stored
    return tl.load(p_weight + at + i_o, mask=i_o < stored, other=0.0).to(tl.float32)[None, :]


@triton.jit
def load_weights(p_weight, channel, i_o, stored, CHANNELS: tl.constexpr):
    """The nine taps of a channel."""
    return (
        load_weight(p_weight, 0, channel, i_o, stored, CHANNELS),
        load_weight(p_weight, 1, channel, i_o, stored, CHANNELS),
        load_weight(p_weight, 2, channel, i_o, stored, CHANNELS),
        load_weight(p_weight, 3, channel, i_o, stored, CHANNELS),
        load_weight(p_weight, 4, channel, i_o, stored, CHANNELS),
        load_weight(p_weight, 5, channel, i_o, stored, CHANNELS),
        load_weight(p_weight, 6, channel, i_o, stored, CHANNELS),
        load_weight(p_weight, 7, channel, i_o, stored, CHANNELS),
        load_weight(p_weight, 8, channel, i_o, stored, CHANNELS),
    )


@triton.jit
def load_pixels(p_x, i_start, i_y, i_x, i_k, inside, height, width, CHANNELS: tl.constexpr, WITHIN: tl.constexpr):
    """The 4x4 pixels of blocks [ROWS, len(i_k)]."""
    i_row, i_column = i_k // (4 * CHANNELS), i_k % (4 * CHANNELS)
    i_at = (i_start + (i_y * width + i_x) * CHANNELS)[:, None] + (i_row * (width * CHANNELS) + i_column)[None, :]
    inside = inside[:, None] & (i_row < 4)[None, :]
    if not WITHIN:
        i_y, i_x = i_y[:, None] + i_row[None, :], i_x[:, None] + (i_column // CHANNELS)[None, :]
        inside = inside & (i_y >= 0) & (i_y < height) & (i_x >= 0) & (i_x < width)
    return tl.load(p_x + i_at, mask=inside, other=0.0)
