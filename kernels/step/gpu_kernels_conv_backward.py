"""The sum of a weight gradient's parts as a Triton kernel; `gpu_convolution` launches it and explains its arguments."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

from .gpu_kernels_conv_tiles import BIAS, CHANNELS, SCRATCH, SPLITS, STORED, WEIGHT, layer_of, offset, size


@triton.jit
def reduce_kernel(
    p_scratch, p_dweight, p_dbias, p_layers, p_tiles,
    SIZES: tl.constexpr, ALIGNED: tl.constexpr, FEW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum a layer's slabs in their order."""
    p_tile = p_tiles + tl.program_id(0) * 3
    p_layer = layer_of(p_layers, p_tile)
    channels, stored = size(p_layer, CHANNELS, SIZES, ALIGNED), size(p_layer, STORED, SIZES, True)
    pixel = channels * stored
    weights = 9 * pixel
    biases = weights if FEW else 24 * pixel
    i_at = tl.load(p_tile + 1) * BLOCK + tl.arange(0, BLOCK)
    is_weight, there = i_at < weights, i_at < weights + stored
    i_from = i_at
    if not FEW:
        i_from = i_at // (3 * pixel) * (8 * pixel) + i_at % (3 * pixel)
    i_from = tl.where(is_weight, i_from, i_at - weights + biases)
    b_sum = tl.zeros((BLOCK,), tl.float32)
    p_slab = p_scratch + offset(p_layer, SCRATCH)
    for _ in tl.range(0, tl.load(p_layer + SPLITS).to(tl.int32)):
        b_sum += tl.load(p_slab + i_from, mask=there, other=0.0)
        if not FEW:
            b_sum += tl.load(p_slab + i_from + 5 * pixel, mask=is_weight, other=0.0)
        p_slab += biases + stored
    tl.store(p_dweight + offset(p_layer, WEIGHT) + i_at, b_sum, mask=is_weight)
    tl.store(p_dbias + offset(p_layer, BIAS) + (i_at - weights), b_sum, mask=there & ~is_weight)
