"""The Triton kernels of dense layers; `gpu_dense` says what their tables and arguments are.

A program computes one tile: its row of the table of tiles names a layer, and the layer's row where its numbers lie.
"""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from ..dropout.gpu_kernels import random_bytes_at, scale_of


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """The activation and its slope; a NaN stays one."""
    if ACTIVATION == "relu":
        return tl.where(z <= 0, 0.0, z), tl.where(z <= 0, 0.0, 1.0)
    elif ACTIVATION == "sigmoid":
        y = 1 / (1 + tl.exp(-z))
        return y, y * (1 - y)
    elif ACTIVATION == "tanh":
        square = z * z
        # Near 0 the quotient would cancel; the series is good to 1e-9 of itself there.
        series = z * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
        y = tl.where(square < 0.01, series, 1 - 2 / (1 + tl.exp(2 * z)))
        return y, 1 - y * y
    elif ACTIVATION == "gelu":
        share = 0.5 * (1 + tl.erf(z * 0.7071067811865476))
        return z * share, share + z * tl.exp(-0.5 * z * z) * 0.3989422804014327
    else:
        return z, z * 0 + 1


@triton.jit
def field(p_layer, INDEX: tl.constexpr, ALIGNED: tl.constexpr):
    """A field of a layer, with the promise that it is a multiple of 16 where that holds: wide loads need it."""
    value = tl.load(p_layer + INDEX)
    return tl.multiple_of(value, 16) if ALIGNED else value


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(
    p_x,
    p_weights,
    p_biases,
    p_y,
    p_slopes,
    p_layers,
    p_tiles,
    p_keys,
    p_step,
    rows,
    ACTIVATION: tl.constexpr,
    DROPS: tl.constexpr,
    SLOPES: tl.constexpr,
    ALIGNED: tl.constexpr,
    FIELDS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = p_layers + tl.load(p_tile) * FIELDS
    inputs, stride = field(p_layer, 9, ALIGNED), field(p_layer, 7, ALIGNED)
    outputs, stored = tl.load(p_layer + 10), field(p_layer, 11, ALIGNED)
    i_m = tl.load(p_tile + 1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    i_n = tl.load(p_tile + 2).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    i_k = tl.arange(0, BLOCK_K)
    p_a = p_x + field(p_layer, 0, ALIGNED) + i_m * field(p_layer, 6, ALIGNED) + i_k[None, :]
    p_b = p_weights + field(p_layer, 1, ALIGNED) + i_n * stride + i_k[:, None]
    b_z = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, inputs, BLOCK_K):
        b_a = tl.load(p_a + k, mask=(i_m < rows) & (i_k[None, :] + k < inputs), other=0.0)
        b_b = tl.load(p_b + k, mask=(i_n < stored) & (i_k[:, None] + k < inputs), other=0.0)
        b_z = tl.dot(b_a, b_b, b_z, input_precision=PRECISION)
    b_z += tl.load(p_biases + field(p_layer, 2, ALIGNED) + i_n, mask=i_n < stored, other=0.0)
    b_y, b_slope = activate(b_z, ACTIVATION)
    if DROPS:
        rate = tl.load(p_layer + 14).to(tl.int32)
        key, step = tl.load(p_keys + tl.load(p_layer + 12)), tl.load(p_step)
        i_position = (i_m * outputs + i_n).to(tl.int32)
        b_kept = random_bytes_at(key, step, tl.load(p_layer + 13), i_position) >= rate
        scale = scale_of(rate)
        b_y = tl.where(b_kept, b_y * scale, 0.0)
        b_slope = tl.where(b_kept, b_slope * scale, 0.0)
    inside = (i_m < rows) & (i_n < stored)
    i_at = field(p_layer, 3, ALIGNED) + i_m * field(p_layer, 8, ALIGNED) + i_n
    # sigmoid(0) is not 0, but padding must be.
    tl.store(p_y + i_at, tl.where(i_n < outputs, b_y, 0.0).to(p_y.dtype.element_ty), mask=inside)
    if SLOPES:
        tl.store(p_slopes + i_at, tl.where(i_n < outputs, b_slope, 0.0).to(p_slopes.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def input_gradient_kernel(
    p_dz,
    p_weights,
    p_dx,
    p_x,
    p_slopes,
    p_layers,
    p_tiles,
    rows,
    SLOPE: tl.constexpr,
    DROPPED: tl.constexpr,
    ALIGNED: tl.constexpr,
    FIELDS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = p_layers + tl.load(p_tile) * FIELDS
    inputs, stored, stride = field(p_layer, 9, ALIGNED), field(p_layer, 11, ALIGNED), field(p_layer, 7, ALIGNED)
    i_m = tl.load(p_tile + 1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    i_n = tl.load(p_tile + 2).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    i_k = tl.arange(0, BLOCK_K)
    p_a = p_dz + field(p_layer, 5, ALIGNED) + i_m * field(p_layer, 8, ALIGNED) + i_k[None, :]
    p_b = p_weights + field(p_layer, 1, ALIGNED) + i_k[:, None] * stride + i_n
    b_dx = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, stored, BLOCK_K):
        b_a = tl.load(p_a + k, mask=(i_m < rows) & (i_k[None, :] + k < stored), other=0.0)
        b_b = tl.load(p_b + k * stride, mask=(i_n < inputs) & (i_k[:, None] + k < stored), other=0.0)
        b_dx = tl.dot(b_a, b_b, b_dx, input_precision=PRECISION)
    inside = (i_m < rows) & (i_n < inputs)
    i_at = i_m * field(p_layer, 6, ALIGNED) + i_n
    if SLOPE == "relu":
        # What ReLU or dropout made 0 has no slope; a NaN lets its gradient pass, as in torch.
        b_x = tl.load(p_x + field(p_layer, 0, ALIGNED) + i_at, mask=inside, other=0.0)
        if DROPPED:
            b_dx *= scale_of(tl.load(p_layer + 15))
        b_dx = tl.where(b_x <= 0, 0.0, b_dx)
    elif SLOPE == "stored":
        b_dx *= tl.load(p_slopes + field(p_layer, 0, ALIGNED) + i_at, mask=inside, other=0.0).to(tl.float32)
    tl.store(p_dx + field(p_layer, 4, ALIGNED) + i_at, b_dx.to(p_dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def weight_gradient_kernel(
    p_dz,
    p_x,
    p_weights,
    p_biases,
    p_layers,
    p_tiles,
    rows,
    ALIGNED: tl.constexpr,
    FIELDS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = p_layers + tl.load(p_tile) * FIELDS
    inputs, stored, stride = field(p_layer, 9, ALIGNED), field(p_layer, 11, ALIGNED), field(p_layer, 7, ALIGNED)
    x_stride, dz_stride = field(p_layer, 6, ALIGNED), field(p_layer, 8, ALIGNED)
    i_tile = tl.load(p_tile + 2)
    i_m = tl.load(p_tile + 1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    i_n = i_tile.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    i_k = tl.arange(0, BLOCK_K)[:, None]
    p_a = p_dz + field(p_layer, 5, ALIGNED) + i_k * dz_stride + i_m[None, :]
    p_b = p_x + field(p_layer, 0, ALIGNED) + i_k * x_stride + i_n
    b_dw = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    b_db = tl.zeros((BLOCK_M,), tl.float32)
    for k in range(0, rows, BLOCK_K):
        b_a = tl.load(p_a + k * dz_stride, mask=(i_k + k < rows) & (i_m[None, :] < stored), other=0.0)
        b_b = tl.load(p_b + k * x_stride, mask=(i_k + k < rows) & (i_n < inputs), other=0.0)
        b_dw = tl.dot(tl.trans(b_a), b_b, b_dw, input_precision=PRECISION)
        b_db += tl.sum(b_a.to(tl.float32), 0)
    inside = (i_m[:, None] < stored) & (i_n < inputs)
    tl.store(p_weights + field(p_layer, 1, ALIGNED) + i_m[:, None] * stride + i_n, b_dw, mask=inside)
    if i_tile == 0:
        tl.store(p_biases + field(p_layer, 2, ALIGNED) + i_m, b_db, mask=i_m < stored)
