"""The Triton kernels of a convolution of images, which have one to four channels; `gpu_convolution` launches them.

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

from ..dropout.gpu_kernels import scale_of
from .gpu_kernels_conv_forward import activate, dropped_at, pool
from .gpu_kernels_conv_tiles import (
    BIAS,
    CLOSED,
    DX,
    FILTERS,
    HEIGHT,
    MEMBER,
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
    X,
    Y,
    layer_of,
    offset,
    out_sides,
    size,
)


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


@triton.jit
def finish(
    b_z, b_window, p_y, p_saved, p_slopes, p_key, p_step, p_layer, i_pixel, pixels, i_o, o_tile, inside, filters,
    stored, WHOLE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Activate, drop and store one position a row, and what the backward pass needs of it.

    It is the i_pixel-th of the images from the tile's first one on, which has so many `pixels` of the member's before.
    """
    WIDE: tl.constexpr = 128 // p_y.dtype.element_ty.primitive_bitwidth
    b_y, b_slope = activate(b_z, ACTIVATION)
    b_closed = tl.zeros(b_z.shape, tl.int1)
    if ACTIVATION == "relu":
        b_y = tl.maximum(b_z, 0.0, propagate_nan=tl.PropagateNan.ALL)  # in one instruction
        b_closed = b_z <= 0
    if not WHOLE:
        # What fills filters up to a multiple of 16 is zero and takes no gradient.
        b_filler = tl.broadcast_to((i_o >= filters)[None, :], b_z.shape)
        b_y = tl.where(b_filler, 0.0, b_y)
        b_closed = b_closed | b_filler
    if p_key is not None:
        i_first = (pixels + i_pixel) * filters
        b_dropped = dropped_at(p_key, p_step, p_layer, i_first, i_o, o_tile, WHOLE)
        scale = scale_of(tl.load(p_layer + RATE))
        b_y = tl.where(b_dropped, 0.0, b_y * scale)
        b_slope = tl.where(b_dropped, 0.0, b_slope * scale)
        b_closed = b_closed | b_dropped
        b_window = b_window + SCALED
    i_at = (i_pixel * stored)[:, None] + i_o[None, :]
    inside = inside[:, None] & (i_o < stored)[None, :]
    tl.store(p_y + i_at, b_y.to(p_y.dtype.element_ty), mask=inside)
    # Were bytes stored 16 at a time, they would have to change threads.
    p_saved = tl.max_contiguous(p_saved + i_at, (1, WIDE))
    tl.store(p_saved, tl.where(b_closed, CLOSED, b_window).to(tl.uint8), mask=inside)
    if p_slopes is not None:
        tl.store(p_slopes + i_at, b_slope.to(p_slopes.dtype.element_ty), mask=inside)


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
    height, width = size(p_layer, HEIGHT, SIZES, False), size(p_layer, WIDTH, SIZES, False)
    padding, stride = size(p_layer, PADDING, SIZES, False), size(p_layer, STRIDE, SIZES, True)
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
                inside, filters, stored, WHOLE, ACTIVATION,
            )  # fmt: skip
        else:
            b_window = tl.zeros((ROWS, BLOCK_O), tl.int32)
            for window in tl.static_range(4):
                b_z = b_0 if window == 0 else (b_1 if window == 1 else (b_2 if window == 2 else b_3))
                i_y, i_x = i_block_y * 2 + window // 2, i_block_x * 2 + window % 2
                i_pixel, there = i_more * pixels + i_y * out_x + i_x, inside & (i_y < out_y) & (i_x < out_x)
                finish(
                    b_z, b_window, p_y_at, p_saved_at, p_slopes_at, p_keys, p_step, p_layer, i_pixel, before, i_o,
                    o_tile, there, filters, stored, WHOLE, ACTIVATION,
                )  # fmt: skip


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
    height, width = size(p_layer, HEIGHT, SIZES, False), size(p_layer, WIDTH, SIZES, False)
    padding, stride = size(p_layer, PADDING, SIZES, False), size(p_layer, STRIDE, SIZES, True)
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
    height, width = size(p_layer, HEIGHT, SIZES, False), size(p_layer, WIDTH, SIZES, False)
    padding, stride = size(p_layer, PADDING, SIZES, False), size(p_layer, STRIDE, SIZES, True)
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
