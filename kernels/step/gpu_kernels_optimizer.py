"""The Triton kernels of Adam, and of SGD with momentum, over the parameters of all members."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl


@triton.jit
def one_minus_exp(x):
    """1 - e**x for x < 0, to float32's precision near 0 too, and without the slow double precision."""
    series = 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7 * (1 + x / 8))))))
    return tl.where(x > -0.5, -x * series, 1 - tl.exp(x))


@triton.jit
def adam_kernel(
    p_parameters,
    p_gradients,
    p_first,
    p_second,
    p_copy,
    p_tiles,
    p_steps,
    p_rates,
    beta1: tl.float64,
    beta2: tl.float64,
    log1: tl.float64,
    log2: tl.float64,
    epsilon: tl.float64,
    ALIGNED: tl.constexpr,
    COPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    p_tile = p_tiles + tl.program_id(0) * 3
    start, end, member = tl.load(p_tile), tl.load(p_tile + 1), tl.load(p_tile + 2)
    if ALIGNED:
        start, end = tl.multiple_of(start, 16), tl.multiple_of(end, 16)
    i_at = start + tl.arange(0, BLOCK)
    inside = i_at < end
    # The interpreter hands over plain numbers, which `full` makes tensors of.
    beta1, beta2 = tl.full((1,), beta1, tl.float64), tl.full((1,), beta2, tl.float64)
    step = (tl.load(p_steps + member) + 1).to(tl.float32)
    size = tl.load(p_rates + member).to(tl.float32) / one_minus_exp(step * tl.full((1,), log1, tl.float32))
    root = tl.sqrt(one_minus_exp(step * tl.full((1,), log2, tl.float32)))
    b_gradient = tl.load(p_gradients + i_at, mask=inside, other=0.0)
    b_first = tl.load(p_first + i_at, mask=inside, other=0.0)
    b_first += (b_gradient - b_first) * (1 - beta1).to(tl.float32)
    b_second = tl.load(p_second + i_at, mask=inside, other=0.0) * beta2.to(tl.float32)
    b_second += b_gradient * b_gradient * (1 - beta2).to(tl.float32)
    b_parameter = tl.load(p_parameters + i_at, mask=inside, other=0.0)
    b_parameter -= size * (b_first / (tl.sqrt_rn(b_second) / root + tl.full((1,), epsilon, tl.float32)))
    tl.store(p_first + i_at, b_first, mask=inside)
    tl.store(p_second + i_at, b_second, mask=inside)
    tl.store(p_parameters + i_at, b_parameter, mask=inside)
    if COPY:
        tl.store(p_copy + i_at, b_parameter.to(p_copy.dtype.element_ty), mask=inside)


@triton.jit
def sgd_kernel(
    p_parameters,
    p_gradients,
    p_first,
    p_copy,
    p_tiles,
    p_rates,
    momentum: tl.float64,
    ALIGNED: tl.constexpr,
    COPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    p_tile = p_tiles + tl.program_id(0) * 3
    start, end, member = tl.load(p_tile), tl.load(p_tile + 1), tl.load(p_tile + 2)
    if ALIGNED:
        start, end = tl.multiple_of(start, 16), tl.multiple_of(end, 16)
    i_at = start + tl.arange(0, BLOCK)
    inside = i_at < end
    b_first = tl.load(p_first + i_at, mask=inside, other=0.0) * tl.full((1,), momentum, tl.float32)
    b_first += tl.load(p_gradients + i_at, mask=inside, other=0.0)
    b_parameter = tl.load(p_parameters + i_at, mask=inside, other=0.0)
    b_parameter -= tl.load(p_rates + member).to(tl.float32) * b_first
    tl.store(p_first + i_at, b_first, mask=inside)
    tl.store(p_parameters + i_at, b_parameter, mask=inside)
    if COPY:
        tl.store(p_copy + i_at, b_parameter.to(p_copy.dtype.element_ty), mask=inside)
