"""The Triton kernel of steps onto linearised boundaries; `gpu_triton` launches it."""

# No `from __future__ import annotations`: Triton reads the annotations, and float64 ones keep the numbers exact.
import triton
import triton.language as tl

LEAST_CHANGE = tl.constexpr(1e-8)  # of reference.py
INFINITY_32, INFINITY_64 = tl.constexpr(0x7F800000), tl.constexpr(0x7FF0000000000000)


@triton.jit
def even(b_weights, b_room, wanted, NORM: tl.constexpr):
    """Moves within their room, of the least linf or l2 norm, by Newton's steps from below; see reference.py."""
    DTYPE: tl.constexpr = b_room.dtype
    b_rates = tl.full(b_room.shape, 1.0, DTYPE) if NORM == "linf" else b_weights
    b_wide = b_weights.to(tl.float64)
    t = tl.full((), 0.0, tl.float64)
    free = tl.full((), -1, tl.int32)
    still = tl.sum((b_room > 0).to(tl.int32), 0)
    while still != free:
        free = still
        b_free = t.to(DTYPE) * b_rates < b_room
        slope = tl.sum(tl.where(b_free, b_wide * b_rates.to(tl.float64), 0.0), 0)
        fixed = tl.sum(tl.where(b_free, 0.0, b_wide * b_room.to(tl.float64)), 0)
        reached = ((wanted - fixed) / tl.where(slope > 0.0, slope, 1.0)).to(DTYPE).to(tl.float64)
        t = tl.where((slope > 0.0) & (reached > t), reached, t)
        still = tl.sum((t.to(DTYPE) * b_rates < b_room).to(tl.int32), 0)
    b_moves = t.to(DTYPE) * b_rates
    return tl.where(b_moves < b_room, b_moves, b_room)


@triton.jit
def fill(b_weights, b_room, wanted):
    """The same of the least l1 norm, by bisection of the bits of the weight at which it ends."""
    if b_weights.dtype == tl.float64:
        b_bits = b_weights.to(tl.int64, bitcast=True)
        least, most = tl.full((), 0, tl.int64), tl.full((), INFINITY_64, tl.int64)
    else:
        b_bits = b_weights.to(tl.int32, bitcast=True)
        least, most = tl.full((), 0, tl.int32), tl.full((), INFINITY_32, tl.int32)
    b_parts = b_weights.to(tl.float64) * b_room.to(tl.float64)
    most = tl.where(tl.sum(b_parts, 0) > wanted, most, least)  # weights of at least `most` are not enough
    while most - least > 1:
        middle = least + (most - least) // 2
        enough = tl.sum(tl.where(b_bits >= middle, b_parts, 0.0), 0) >= wanted
        least, most = tl.where(enough, middle, least), tl.where(enough, most, middle)
    last = b_bits == least  # of equal weights the first pixels move
    b_last = tl.where(last, b_parts, 0.0)
    b_left = wanted - tl.sum(tl.where(b_bits > least, b_parts, 0.0), 0) - (tl.cumsum(b_last, 0) - b_last)
    b_left = tl.where(b_left > 0.0, b_left, 0.0)
    b_weights = tl.where(b_weights > 0, b_weights, 1.0).to(tl.float64)
    b_rest = tl.where(b_left < b_parts, (b_left / b_weights).to(b_room.dtype), b_room)
    return tl.where(b_bits > least, b_room, tl.where(last & (least > 0), b_rest, 0.0))


@triton.jit
def project(b_from, b_normals, inside, offset, low, high, NORM: tl.constexpr):
    """The smallest moves, each in its direction, from a point onto the hyperplane, and their norm."""
    DTYPE: tl.constexpr = b_from.dtype
    towards = (offset < 0).to(DTYPE) - (offset > 0).to(DTYPE)
    b_signs = towards * ((b_normals > 0).to(DTYPE) - (b_normals < 0).to(DTYPE))
    b_room = tl.where(b_signs > 0, high - b_from, b_from - low)
    b_room = tl.where(inside & (b_room > 0), b_room, 0.0)
    if NORM == "l1":
        b_moves = fill(tl.abs(b_normals), b_room, tl.abs(offset)) * b_signs
    else:
        b_moves = even(tl.abs(b_normals), b_room, tl.abs(offset), NORM) * b_signs
    b_wide = b_moves.to(tl.float64)
    if NORM == "linf":
        size = tl.max(tl.abs(b_wide), 0)
    elif NORM == "l2":
        size = tl.sqrt(tl.sum(b_wide * b_wide, 0))
    else:
        size = tl.sum(tl.abs(b_wide), 0)
    return b_moves, tl.where(size > LEAST_CHANGE, size, LEAST_CHANGE)


@triton.jit
def boundary_kernel(
    p_points,
    p_clean,
    p_normals,
    p_values,
    p_reached,
    pixels,
    alpha: tl.float64,
    eta: tl.float64,
    low: tl.float64,
    high: tl.float64,
    NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_pair, i_pixel = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    DTYPE: tl.constexpr = p_reached.dtype.element_ty
    inside, i_at = i_pixel < pixels, i_pair * pixels + i_pixel
    b_points = tl.load(p_points + i_at, mask=inside, other=0.0)
    b_clean = tl.load(p_clean + i_at, mask=inside, other=0.0)
    b_normals = tl.load(p_normals + i_at, mask=inside, other=0.0)
    b_normals = tl.where(b_normals == b_normals, b_normals, 0.0)
    value = tl.load(p_values + i_pair).to(tl.float64)
    between = tl.sum(b_normals.to(tl.float64) * (b_clean.to(tl.float64) - b_points.to(tl.float64)), 0)
    b_low, b_high = tl.full((BLOCK,), low, DTYPE), tl.full((BLOCK,), high, DTYPE)
    b_own, size = project(b_points, b_normals, inside, value, b_low, b_high, NORM)
    b_biased, other = project(b_clean, b_normals, inside, value + between, b_low, b_high, NORM)
    share = size / (size + other)
    weight = tl.where(share < alpha, share, alpha).to(DTYPE)
    b_eta = tl.full((BLOCK,), eta, DTYPE)
    b_mean = (b_points + b_eta * b_own) * (1 - weight) + (b_clean + b_eta * b_biased) * weight
    b_mean = tl.where(b_mean < b_low, b_low, b_mean)  # comparisons rather than min and max: they keep a NaN
    tl.store(p_reached + i_at, tl.where(b_mean > b_high, b_high, b_mean), mask=inside)
