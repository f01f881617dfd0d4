"""Shared code of the convolution block's Triton kernels: the division of images into tiles.

All but the reduction work on 2x2 blocks of positions: the four windows of a pool, or just four neighbours, whose nine
taps touch a patch of 4x4 pixels. A program takes ROWS blocks of one member at a time. Windows count row by row: 0 is
the upper left one, 3 the lower right one.

A row of the table of tiles is (layer, tile of rows or of weights, tile of columns or split); the layer's row of the
table of layers (`gpu_convolution.Layer`) says where its numbers lie and how many there are. Where all members have the
same layers, sizes are constants.
"""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

# A byte of `saved`: which window won, whether dropout scaled it (+4), or that no gradient passes.
SCALED = tl.constexpr(4)
CLOSED = tl.constexpr(8)


# Fields of the table of layers, as of `gpu_convolution.Layer`.
X, WEIGHT, BIAS, Y, DX, SCRATCH = (tl.constexpr(field) for field in range(6))
MEMBER, DROPOUT, RATE, SPLITS, TURNS = (tl.constexpr(field) for field in range(6, 11))
HEIGHT, WIDTH, CHANNELS, STRIDE, FILTERS, STORED, PADDING = (tl.constexpr(field) for field in range(11, 18))
FIELDS = tl.constexpr(18)


@triton.jit
def layer_of(p_layers, p_tile):
    """Where the row of a tile's layer begins."""
    return p_layers + tl.load(p_tile).to(tl.int64) * FIELDS


@triton.jit
def offset(p_layer, FIELD: tl.constexpr):
    """One of a layer's offsets: all of them are multiples of 16, and wide loads need to know."""
    return tl.multiple_of(tl.load(p_layer + FIELD), 16)


@triton.jit
def size(p_layer, FIELD: tl.constexpr, SIZES: tl.constexpr, ALIGNED: tl.constexpr):
    """One of a layer's sizes, int32: a constant where the launch has them (from `HEIGHT` on)."""
    if SIZES is not None:
        return SIZES[FIELD - HEIGHT]
    else:
        value = tl.load(p_layer + FIELD).to(tl.int32)
        return tl.multiple_of(value, 16) if ALIGNED else value


@triton.jit
def input_of(p_layer, SIZES: tl.constexpr):
    """Height and width of a layer's input, and its padding."""
    height, width = size(p_layer, HEIGHT, SIZES, False), size(p_layer, WIDTH, SIZES, False)
    return height, width, size(p_layer, PADDING, SIZES, False)


@triton.jit
def out_sides(height, width, padding, POOL: tl.constexpr):
    """Rows and columns of the sums, and of blocks of four of them."""
    out_y, out_x = height + 2 * padding - 2, width + 2 * padding - 2
    if POOL:
        return out_y, out_x, out_y // 2, out_x // 2
    else:
        return out_y, out_x, (out_y + 1) // 2, (out_x + 1) // 2


@triton.jit
def split_rows(images, blocks_y, blocks_x, ROWS: tl.constexpr, i_tile, FAR: tl.constexpr):
    """Image (int64), block row and block column of a tile's blocks, and which of them exist.

    FAR: whether 32 bits cannot count a batch's blocks; those of an image they can.
    """
    return find_rows(images, blocks_y, blocks_x, ROWS, i_tile, tl.arange(0, ROWS), FAR)


@triton.jit
def find_rows(images, blocks_y, blocks_x, ROWS: tl.constexpr, i_tile, i_number, FAR: tl.constexpr):
    """The same of some of the tile's blocks, by their numbers in it."""
    blocks = blocks_y * blocks_x
    i_base, i_first = 0, i_tile * ROWS
    if FAR:
        i_far = tl.cast(i_tile, tl.int64) * ROWS
        i_base = i_far // blocks
        i_first = (i_far - i_base * blocks).to(tl.int32)
    i_row = i_first + i_number
    i_more = i_row // blocks
    i_block = i_row - i_more * blocks
    i_image = i_base + i_more.to(tl.int64)
    return i_image, i_block // blocks_x, i_block % blocks_x, i_image < images


@triton.jit
def pixel_offsets(i_start, i_y, i_x, inside, height, width, channels):
    """Where pixels [ROWS] of images that begin at `i_start` begin, and whether they lie within their image."""
    inside = inside & (i_y >= 0) & (i_y < height) & (i_x >= 0) & (i_x < width)
    return i_start + (i_y * width + i_x) * channels, inside


@triton.jit
def load_tap(p_weight, tap, i_c, i_o, channels, stored):
    """A tap's weights [len(i_c), len(i_o)]."""
    inside = (i_c < channels)[:, None] & (i_o < stored)[None, :]
    return tl.load(p_weight + ((tap * channels + i_c) * stored)[:, None] + i_o[None, :], mask=inside, other=0.0)
