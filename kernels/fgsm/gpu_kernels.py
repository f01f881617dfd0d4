"""The Triton kernels of FGSM's pixel update; `gpu_triton` launches them."""

# No `from __future__ import annotations`: Triton reads the annotations, and float64 ones keep epsilon exact.
import triton
import triton.language as tl

NAN = tl.constexpr(1 << 16)  # a program's counts share one int32: zeros below, NaN above


@triton.jit
def to_pixels(b_images, DTYPE: tl.constexpr):
    """Images as DTYPE; uint8 divided by 255, correctly rounded (a plain float32 division is not)."""
    if b_images.dtype != tl.uint8:
        return b_images
    elif DTYPE == tl.float32:
        return tl.div_rn(b_images.to(tl.float32), 255.0)
    else:
        return b_images.to(DTYPE) / 255.0


@triton.jit
def step_and_clamp(b_pixels, b_signs, epsilon, low, high, DTYPE: tl.constexpr):
    """Comparisons rather than min and max: they keep a NaN pixel."""
    low, high = tl.full((1,), low, DTYPE), tl.full((1,), high, DTYPE)
    b_values = b_pixels + tl.full((1,), epsilon, DTYPE) * b_signs.to(DTYPE)
    b_values = tl.where(b_values < low, low, b_values)
    return tl.where(b_values > high, high, b_values)


@triton.jit
def place(members, pixels, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """A program's tile, its first member, its pixels, and which of them there are.

    Programs of one tile follow each other: what members share of it stays in the cache.
    """
    groups = (members + GROUP - 1) // GROUP
    i_tile, i_group = tl.program_id(0) // groups, tl.program_id(0) % groups
    i_pixel = i_tile.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return i_tile, i_group.to(tl.int64) * GROUP, i_pixel, i_pixel < pixels


@triton.jit
def of_members(p_values, i_first, members, pixels, i_pixel, inside, other, GROUP: tl.constexpr):
    """What lies at the same pixels of each member of a group: all of it is asked for before anything is computed."""
    b_values = ()
    for i in tl.static_range(GROUP):
        there = inside & (i_first + i < members)
        b_own = tl.load(p_values + (i_first + i) * pixels + i_pixel, mask=there, other=other)
        b_values = b_values + (b_own,)  # type: ignore[assignment] # noqa: RUF005 (Triton unpacks none)
    return b_values


@triton.jit(do_not_specialize=["members", "tiles", "direction"])
def fgsm_kernel(
    p_images,
    p_gradients,
    p_values,
    p_counts,
    members,
    pixels,
    tiles,
    epsilon: tl.float64,
    low: tl.float64,
    high: tl.float64,
    direction,
    p_epsilons,
    SHARED: tl.constexpr,
    SIGNS: tl.constexpr,
    EACH: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_tile, i_first, i_pixel, inside = place(members, pixels, GROUP, BLOCK)
    DTYPE: tl.constexpr = p_values.dtype.element_ty
    # 1 stands for what lies outside: it is neither NaN nor zero, so it is not counted.
    b_all = of_members(p_gradients, i_first, members, pixels, i_pixel, inside, 1.0, GROUP)
    if SHARED and not SIGNS:
        b_images = to_pixels(tl.load(p_images + i_pixel, mask=inside, other=0), DTYPE)
    if not SHARED and not SIGNS:
        b_own = of_members(p_images, i_first, members, pixels, i_pixel, inside, 0, GROUP)
    for i in tl.static_range(GROUP):
        b_gradients, i_member = b_all[i], i_first + i
        if b_gradients.dtype != tl.float64:
            b_gradients = b_gradients.to(tl.float32)
        b_signs = direction * ((b_gradients > 0).to(tl.int32) - (b_gradients < 0).to(tl.int32))
        if SIGNS:
            b_values = b_signs.to(tl.int8)
        else:
            if not SHARED:
                b_images = to_pixels(b_own[i], DTYPE)
            if EACH:
                own = tl.load(p_epsilons + i_member, mask=i_member < members, other=0.0)
                b_values = step_and_clamp(b_images, b_signs, own, low, high, DTYPE)
            else:  # given a name, the interpreter makes a float32 of it
                b_values = step_and_clamp(b_images, b_signs, epsilon, low, high, DTYPE)
        tl.store(p_values + i_member * pixels + i_pixel, b_values, mask=inside & (i_member < members))
    for i in tl.static_range(GROUP):  # sums are waited for, so they come last
        b_counts = (b_all[i] != b_all[i]).to(tl.int32) * NAN + (b_all[i] == 0).to(tl.int32)
        tl.store(p_counts + (i_first + i) * tiles + i_tile, tl.sum(b_counts, 0), mask=i_first + i < members)


@triton.jit(do_not_specialize=["tiles"])
def totals_kernel(p_counts, p_totals, tiles, BLOCK: tl.constexpr):
    """Of a member's tiles the sums of both counts, NaN and zeros."""
    i_member = tl.program_id(0)
    b_nan, b_zero = tl.zeros((BLOCK,), tl.int64), tl.zeros((BLOCK,), tl.int64)
    for first in range(0, tiles, BLOCK):
        i_tile = first + tl.arange(0, BLOCK)
        b_counts = tl.load(p_counts + i_member.to(tl.int64) * tiles + i_tile, mask=i_tile < tiles, other=0)
        b_nan += (b_counts // NAN).to(tl.int64)
        b_zero += (b_counts % NAN).to(tl.int64)
    tl.store(p_totals + i_member, tl.sum(b_nan, 0))
    tl.store(p_totals + tl.num_programs(0) + i_member, tl.sum(b_zero, 0))


@triton.jit(do_not_specialize=["members"])
def apply_signs_kernel(
    p_images,
    p_signs,
    p_values,
    members,
    pixels,
    epsilon: tl.float64,
    low: tl.float64,
    high: tl.float64,
    p_epsilons,
    SHARED: tl.constexpr,
    EACH: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    _, i_first, i_pixel, inside = place(members, pixels, GROUP, BLOCK)
    DTYPE: tl.constexpr = p_values.dtype.element_ty
    b_signs = of_members(p_signs, i_first, members, pixels, i_pixel, inside, 0, GROUP)
    if SHARED:
        b_images = to_pixels(tl.load(p_images + i_pixel, mask=inside, other=0), DTYPE)
    else:
        b_own = of_members(p_images, i_first, members, pixels, i_pixel, inside, 0, GROUP)
    for i in tl.static_range(GROUP):
        if not SHARED:
            b_images = to_pixels(b_own[i], DTYPE)
        if EACH:
            own = tl.load(p_epsilons + i_first + i, mask=i_first + i < members, other=0.0)
            b_values = step_and_clamp(b_images, b_signs[i], own, low, high, DTYPE)
        else:  # as above
            b_values = step_and_clamp(b_images, b_signs[i], epsilon, low, high, DTYPE)
        tl.store(p_values + (i_first + i) * pixels + i_pixel, b_values, mask=inside & (i_first + i < members))
