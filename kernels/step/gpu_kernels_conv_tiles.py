"""Shared code of the convolution block's Triton kernels: the division of images into tiles, and innermost products.

All but the reduction work on 2x2 blocks of positions: the four windows of a pool, or just four neighbours. The nine
taps of four positions touch a patch of 4x4 pixels, so a block reads 16 pixels where a position at a time would read 36.
A program takes ROWS blocks of one member: a product's row is a block, and each of a block's positions has a sum of its
own. Windows count row by row: 0 is the upper left one, 3 the lower right one.
"""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

# A byte of `saved`: which window won, whether dropout scaled it (+4), or that no gradient passes.
SCALED = tl.constexpr(4)
CLOSED = tl.constexpr(8)
WINDOW = tl.constexpr(8 + 3)


@triton.jit
def split_rows(rows, BLOCKS_Y: tl.constexpr, BLOCKS_X: tl.constexpr, ROWS: tl.constexpr, i_tile):
    """Image (int64), block row and block column of a tile's blocks, and which of them exist."""
    i_row = i_tile * ROWS + tl.arange(0, ROWS)
    i_image = i_row // (BLOCKS_Y * BLOCKS_X)
    i_block = i_row - i_image * (BLOCKS_Y * BLOCKS_X)
    return i_image.to(tl.int64), i_block // BLOCKS_X, i_block % BLOCKS_X, i_row < rows


@triton.jit
def pixel_offsets(i_image, i_y, i_x, inside, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr):
    """Where pixels [ROWS] begin, and whether they lie within their image."""
    inside = inside & (i_y >= 0) & (i_y < HEIGHT) & (i_x >= 0) & (i_x < WIDTH)
    return ((i_image * HEIGHT + i_y) * WIDTH + i_x) * CHANNELS, inside


@triton.jit
def load_pixels(p_x, i_image, i_y, i_x, i_c, inside, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr):
    """Channels i_c of one pixel a row, [ROWS, len(i_c)]; zeros around the image."""
    i_at, inside = pixel_offsets(i_image, i_y, i_x, inside, HEIGHT, WIDTH, CHANNELS)
    return tl.load(p_x + i_at[:, None] + i_c[None, :], mask=inside[:, None] & (i_c < CHANNELS)[None, :], other=0.0)


@triton.jit
def load_window(p_x, i_image, i_y, i_x, i_k, inside, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr):
    """The nine taps of one position a row, tap-major, [ROWS, len(i_k)]: for few channels."""
    i_tap, i_c = i_k // CHANNELS, i_k % CHANNELS
    i_y, i_x = i_y[:, None] + (i_tap // 3)[None, :], i_x[:, None] + (i_tap % 3)[None, :]
    inside = inside[:, None] & (i_k < 9 * CHANNELS)[None, :]
    i_at, inside = pixel_offsets(i_image[:, None], i_y, i_x, inside, HEIGHT, WIDTH, CHANNELS)
    return tl.load(p_x + i_at + i_c[None, :], mask=inside, other=0.0)


@triton.jit
def load_tap(p_weight, tap, i_c, i_o, CHANNELS: tl.constexpr, FILTERS: tl.constexpr):
    """A tap's weights [len(i_c), len(i_o)]."""
    inside = (i_c < CHANNELS)[:, None] & (i_o < FILTERS)[None, :]
    return tl.load(p_weight + ((tap * CHANNELS + i_c) * FILTERS)[:, None] + i_o[None, :], mask=inside, other=0.0)


@triton.jit
def add_row(b_left, b_right, b_0, b_1, b_2, b_3, b_w0, b_w1, b_w2, PRECISION: tl.constexpr):
    """A patch row of four pixels times a row of three taps, for the left and the right position of a block."""
    b_left = tl.dot(b_0, b_w0, b_left, input_precision=PRECISION)
    b_right = tl.dot(b_1, b_w0, b_right, input_precision=PRECISION)
    b_left = tl.dot(b_1, b_w1, b_left, input_precision=PRECISION)
    b_right = tl.dot(b_2, b_w1, b_right, input_precision=PRECISION)
    b_left = tl.dot(b_2, b_w2, b_left, input_precision=PRECISION)
    b_right = tl.dot(b_3, b_w2, b_right, input_precision=PRECISION)
    return b_left, b_right
