"""The Triton kernels of Adam, and of SGD with momentum, over the parameters of all members, and of clipping before."""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl

CLIP_TERM = tl.constexpr(1e-6)  # of torch's clip_grad_norm_


@triton.jit
def one_minus_exp(x):
    """1 - e**x for x < 0, to float32's precision near 0 too, and without the slow double precision."""
    series = 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7 * (1 + x / 8))))))
    return tl.where(x > -0.5, -x * series, 1 - tl.exp(x))


@triton.jit
def tile_of(p_tiles, ALIGNED: tl.constexpr):
    """Start, end and member of the program's tile."""
    p_tile = p_tiles + tl.program_id(0) * 3
    start, end, member = tl.load(p_tile), tl.load(p_tile + 1), tl.load(p_tile + 2)
    if ALIGNED:
        start, end = tl.multiple_of(start, 16), tl.multiple_of(end, 16)
    return start, end, member


@triton.jit
def rate_of(p_rates, p_counter, member, members, COUNTED: tl.constexpr):
    """A member's learning rate float64 in the step at hand."""
    at = member
    if COUNTED:
        at += tl.load(p_counter) * members
    return tl.load(p_rates + at)


@triton.jit
def taken(b_gradient, b_parameter, p_decays, p_scales, member, DECAY: tl.constexpr, CLIP: tl.constexpr):
    """The gradient as the optimizer takes it: clipped, then with coupled weight decay."""
    if CLIP:
        b_gradient *= tl.load(p_scales + member)
    if DECAY == "coupled":
        b_gradient += tl.load(p_decays + member).to(tl.float32) * b_parameter
    return b_gradient


@triton.jit
def keep_average(p_average, i_at, inside, b_parameter, step, share):
    """Move the average towards the weights; after a first step it is what they are."""
    b_average = tl.load(p_average + i_at, mask=inside, other=0.0)
    b_average += tl.full((1,), share, tl.float32) * (b_parameter - b_average)
    tl.store(p_average + i_at, tl.where(step == 1, b_parameter, b_average), mask=inside)


@triton.jit(do_not_specialize=["members"])
def adam_kernel(
    p_parameters,
    p_gradients,
    p_first,
    p_second,
    p_copy,
    p_average,
    p_tiles,
    p_steps,
    p_rates,
    p_counter,
    p_decays,
    p_scales,
    members,
    share: tl.float64,
    beta1: tl.float64,
    beta2: tl.float64,
    log1: tl.float64,
    log2: tl.float64,
    epsilon: tl.float64,
    ALIGNED: tl.constexpr,
    COPY: tl.constexpr,
    COUNTED: tl.constexpr,
    DECAY: tl.constexpr,
    CLIP: tl.constexpr,
    AVERAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start, end, member = tile_of(p_tiles, ALIGNED)
    i_at = start + tl.arange(0, BLOCK)
    inside = i_at < end
    # The interpreter hands over plain numbers, which `full` makes tensors of.
    beta1, beta2 = tl.full((1,), beta1, tl.float64), tl.full((1,), beta2, tl.float64)
    count = tl.load(p_steps + member) + 1
    step, rate = count.to(tl.float32), rate_of(p_rates, p_counter, member, members, COUNTED)
    size = rate.to(tl.float32) / one_minus_exp(step * tl.full((1,), log1, tl.float32))
    root = tl.sqrt(one_minus_exp(step * tl.full((1,), log2, tl.float32)))
    b_parameter = tl.load(p_parameters + i_at, mask=inside, other=0.0)
    b_gradient = tl.load(p_gradients + i_at, mask=inside, other=0.0)
    b_gradient = taken(b_gradient, b_parameter, p_decays, p_scales, member, DECAY, CLIP)
    if DECAY == "decoupled":
        b_parameter *= (1 - rate * tl.load(p_decays + member)).to(tl.float32)
    b_first = tl.load(p_first + i_at, mask=inside, other=0.0)
    b_first += (b_gradient - b_first) * (1 - beta1).to(tl.float32)
    b_second = tl.load(p_second + i_at, mask=inside, other=0.0) * beta2.to(tl.float32)
    b_second += b_gradient * b_gradient * (1 - beta2).to(tl.float32)
    b_parameter -= size * (b_first / (tl.sqrt_rn(b_second) / root + tl.full((1,), epsilon, tl.float32)))
    tl.store(p_first + i_at, b_first, mask=inside)
    tl.store(p_second + i_at, b_second, mask=inside)
    tl.store(p_parameters + i_at, b_parameter, mask=inside)
    if COPY:
        tl.store(p_copy + i_at, b_parameter.to(p_copy.dtype.element_ty), mask=inside)
    if AVERAGE:
        keep_average(p_average, i_at, inside, b_parameter, count, share)


@triton.jit(do_not_specialize=["members"])
def sgd_kernel(
    p_parameters,
    p_gradients,
    p_first,
    p_copy,
    p_average,
    p_tiles,
    p_steps,
    p_rates,
    p_counter,
    p_decays,
    p_scales,
    members,
    share: tl.float64,
    momentum: tl.float64,
    ALIGNED: tl.constexpr,
    COPY: tl.constexpr,
    COUNTED: tl.constexpr,
    DECAY: tl.constexpr,
    CLIP: tl.constexpr,
    AVERAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start, end, member = tile_of(p_tiles, ALIGNED)
    i_at = start + tl.arange(0, BLOCK)
    inside = i_at < end
    b_parameter = tl.load(p_parameters + i_at, mask=inside, other=0.0)
    b_gradient = tl.load(p_gradients + i_at, mask=inside, other=0.0)
    b_gradient = taken(b_gradient, b_parameter, p_decays, p_scales, member, DECAY, CLIP)
    b_first = tl.load(p_first + i_at, mask=inside, other=0.0) * tl.full((1,), momentum, tl.float32)
    b_first += b_gradient
    b_parameter -= rate_of(p_rates, p_counter, member, members, COUNTED).to(tl.float32) * b_first
    tl.store(p_first + i_at, b_first, mask=inside)
    tl.store(p_parameters + i_at, b_parameter, mask=inside)
    if COPY:
        tl.store(p_copy + i_at, b_parameter.to(p_copy.dtype.element_ty), mask=inside)
    if AVERAGE:
        keep_average(p_average, i_at, inside, b_parameter, tl.load(p_steps + member) + 1, share)


@triton.jit
def squares_kernel(p_gradients, p_tiles, p_squares, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of the squares of each tile's gradients."""
    start, end, _ = tile_of(p_tiles, ALIGNED)
    i_at = start + tl.arange(0, BLOCK)
    b_gradient = tl.load(p_gradients + i_at, mask=i_at < end, other=0.0)
    tl.store(p_squares + tl.program_id(0), tl.sum(b_gradient * b_gradient, 0))


@triton.jit
def scales_kernel(p_squares, p_ends, p_scales, longest: tl.float64, BLOCK: tl.constexpr):
    """What each member's gradients are multiplied by; its tiles lie side by side."""
    p_end = p_ends + tl.program_id(0)
    first, last = tl.load(p_end), tl.load(p_end + 1)
    b_total = tl.zeros((BLOCK,), tl.float64)
    for at in range(first, last, BLOCK):
        i_tile = at + tl.arange(0, BLOCK)
        b_total += tl.load(p_squares + i_tile, mask=i_tile < last, other=0.0).to(tl.float64)
    scale = tl.full((1,), longest, tl.float64) / (tl.sqrt(tl.sum(b_total, 0)) + CLIP_TERM)
    scale = tl.where(scale > 1.0, 1.0, scale)  # NaN stays
    tl.store(p_scales + tl.program_id(0) + tl.arange(0, 1), scale.to(tl.float32))
