"""What convolutions' forward passes do to their sums: activation, pool, dropout, and what the backward pass needs."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from ..dropout.gpu_kernels import random_bytes, random_bytes_at, scale_of
from .gpu_kernels_conv_tiles import CLOSED, DROPOUT, RATE, SCALED


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
    b_z, b_window, p_y, p_saved, p_slopes, p_key, p_step, p_layer, i_pixel, before, i_o, o_tile, inside, filters,
    stored, WHOLE: tl.constexpr, ACTIVATION: tl.constexpr, LIGHT: tl.constexpr,
):  # fmt: skip
    """Activate, drop and store one position a row, and what the backward pass needs of it.

    It is the i_pixel-th of a buffer that the member has so many positions `before`. LIGHT: for programs that do little
    else, so that every instruction counts.
    """
    b_y, b_slope = activate(b_z, ACTIVATION)
    b_closed = tl.zeros(b_z.shape, tl.int1)
    if ACTIVATION == "relu":
        if LIGHT:
            b_y = tl.maximum(b_z, 0.0, propagate_nan=tl.PropagateNan.ALL)  # in one instruction
        b_closed = b_z <= 0
    if not WHOLE:
        # What fills filters up to a multiple of 16 is zero and takes no gradient.
        b_filler = tl.broadcast_to((i_o >= filters)[None, :], b_z.shape)
        b_y = tl.where(b_filler, 0.0, b_y)
        b_closed = b_closed | b_filler
    if p_key is not None:
        b_dropped = dropped_at(p_key, p_step, p_layer, (before + i_pixel) * filters, i_o, o_tile, WHOLE)
        scale = scale_of(tl.load(p_layer + RATE))
        b_y = tl.where(b_dropped, 0.0, b_y * scale)
        b_slope = tl.where(b_dropped, 0.0, b_slope * scale)
        b_closed = b_closed | b_dropped
        b_window = b_window + SCALED
    i_at = (i_pixel * stored)[:, None] + i_o[None, :]
    inside = inside[:, None] & (i_o < stored)[None, :]
    tl.store(p_y + i_at, b_y.to(p_y.dtype.element_ty), mask=inside)
    p_saved = p_saved + i_at
    if LIGHT:
        # Were bytes stored 16 at a time, they would have to change threads.
        WIDE: tl.constexpr = 128 // p_y.dtype.element_ty.primitive_bitwidth
        p_saved = tl.max_contiguous(p_saved, (1, WIDE))
    tl.store(p_saved, tl.where(b_closed, CLOSED, b_window).to(tl.uint8), mask=inside)
    if p_slopes is not None:
        tl.store(p_slopes + i_at, b_slope.to(p_slopes.dtype.element_ty), mask=inside)
