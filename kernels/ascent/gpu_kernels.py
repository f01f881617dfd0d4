"""The Triton kernels of steps of ascent; `gpu_triton` launches them."""

# No `from __future__ import annotations`: Triton reads the annotations, and float64 ones keep the numbers exact.
import triton
import triton.language as tl


@triton.jit
def within(b_values, b_least, b_most):
    """Comparisons rather than min and max: they keep a NaN."""
    b_values = tl.where(b_values < b_least, b_least, b_values)
    return tl.where(b_values > b_most, b_most, b_values)


@triton.jit
def ascent_kernel(
    p_points,
    p_before,
    p_gradients,
    p_clean,
    p_sizes,
    p_reached,
    pixels,
    epsilon: tl.float64,
    weight: tl.float64,
    rest: tl.float64,
    low: tl.float64,
    high: tl.float64,
    MOMENTUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_pair, i_pixel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    DTYPE: tl.constexpr = p_reached.dtype.element_ty
    inside, i_at = i_pixel < pixels, i_pair * pixels + i_pixel
    low, high = tl.full((1,), low, DTYPE), tl.full((1,), high, DTYPE)
    b_points = tl.load(p_points + i_at, mask=inside, other=0.0)
    b_clean = tl.load(p_clean + i_at, mask=inside, other=0.0)
    b_gradients = tl.load(p_gradients + i_at, mask=inside, other=0.0)
    size, epsilon = tl.load(p_sizes + i_pair), tl.full((1,), epsilon, DTYPE)
    b_least, b_most = b_clean - epsilon, b_clean + epsilon
    b_signs = (b_gradients > 0).to(DTYPE) - (b_gradients < 0).to(DTYPE)
    b_reached = within(within(b_points + size * b_signs, b_least, b_most), low, high)
    if MOMENTUM:
        b_before = tl.load(p_before + i_at, mask=inside, other=0.0)
        b_step = tl.full((1,), weight, DTYPE) * (b_reached - b_points)
        b_reached = b_points + b_step + tl.full((1,), rest, DTYPE) * (b_points - b_before)
        b_reached = within(within(b_reached, b_least, b_most), low, high)
    tl.store(p_reached + i_at, b_reached, mask=inside)


@triton.jit
def keep_kernel(p_kept, p_values, p_chosen, pixels, BLOCK: tl.constexpr):
    i_row, i_pixel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (i_pixel < pixels) & (tl.load(p_chosen + i_row) != 0)
    i_at = i_row * pixels + i_pixel
    tl.store(p_kept + i_at, tl.load(p_values + i_at, mask=inside), mask=inside)
