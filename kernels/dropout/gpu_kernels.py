"""The Triton kernels of counter-based dropout, which draw the masks of op step too."""

# No `from __future__ import annotations`: Triton reads the annotations, and a float64 one keeps the scale exact.
import triton
import triton.language as tl


@triton.jit
def philox_words(key, step, layer, i_block):
    """The four words of each block of 16 positions."""
    b_none = i_block * 0
    return tl.philox(key, i_block, b_none + step.to(tl.int32), b_none + layer.to(tl.int32), b_none)


@triton.jit
def byte_of(b_0, b_1, b_2, b_3, i_lane):
    """Byte 0 to 15 of four words, int32."""
    b_word = tl.where(i_lane < 8, tl.where(i_lane < 4, b_0, b_1), tl.where(i_lane < 12, b_2, b_3))
    return ((b_word >> (i_lane % 4 * 8).to(tl.uint32)) & 0xFF).to(tl.int32)


@triton.jit
def random_bytes(key, step, layer, i_block):
    """The bytes of blocks [N] of 16 positions as int32 [N, 16]."""
    b_0, b_1, b_2, b_3 = philox_words(key, step, layer, i_block)
    return byte_of(b_0[:, None], b_1[:, None], b_2[:, None], b_3[:, None], tl.arange(0, 16)[None, :])


@triton.jit
def random_bytes_at(key, step, layer, i_position):
    """The byte of each position as int32: a block drawn for every byte, for positions that do not come in blocks."""
    b_0, b_1, b_2, b_3 = philox_words(key, step, layer, (i_position // 16).to(tl.int32))
    return byte_of(b_0, b_1, b_2, b_3, (i_position % 16).to(tl.int32))


@triton.jit
def scale_of(rate256):
    """The factor by which dropout multiplies the values it keeps."""
    return tl.div_rn(256.0, 256.0 - rate256.to(tl.float32))


@triton.jit(do_not_specialize=["layer", "rate256"])
def dropout_kernel(
    p_x,
    p_y,
    p_keys,
    p_steps,
    p_widths,
    rows,
    spots,
    channels,
    scale: tl.float64,
    layer,
    rate256,
    PADDED: tl.constexpr,
    PLANAR: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    i_member = tl.program_id(1).to(tl.int64)
    i_block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    b_bytes = random_bytes(tl.load(p_keys + i_member), tl.load(p_steps + i_member), layer, i_block)
    i_position = i_block[:, None] * 16 + tl.arange(0, 16)[None, :]
    width = channels
    if PADDED:
        width = tl.minimum(tl.maximum(tl.load(p_widths + i_member), 0), channels).to(tl.int32)
    inside = i_position < rows * spots * width
    i_at = i_position
    if PADDED:
        i_row = i_position // tl.maximum(width, 1)
        i_at = i_row * channels + (i_position - i_row * width)
    if PLANAR:
        i_spot = i_position // channels
        i_row = i_spot // spots
        i_at = (i_row * channels + i_position - i_spot * channels) * spots + i_spot - i_row * spots
    i_at = i_member * rows * spots * channels + i_at
    b_x = tl.load(p_x + i_at, mask=inside, other=0.0)
    # As in torch, half precision is multiplied in float32 and rounded once.
    if b_x.dtype != tl.float64:
        b_x = b_x.to(tl.float32)
    b_y = b_x * tl.full((1, 1), scale, b_x.dtype)
    b_y = tl.where(b_bytes < rate256, 0.0, b_y.to(p_y.dtype.element_ty))
    tl.store(p_y + i_at, b_y, mask=inside)
