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
def fgsm_kernel(
    p_images,
    p_gradients,
    p_values,
    p_counts,
    members,
    pixels,
    epsilon: tl.float64,
    low: tl.float64,
    high: tl.float64,
    direction,
    SHARED: tl.constexpr,
    SIGNS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_tile, i_first = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64) * GROUP
    i_pixel = i_tile * BLOCK + tl.arange(0, BLOCK)
    inside = i_pixel < pixels
    DTYPE: tl.constexpr = p_values.dtype.element_ty
    if SHARED and not SIGNS:
        b_pixels = to_pixels(tl.load(p_images + i_pixel, mask=inside, other=0), DTYPE)
    for i in tl.static_range(GROUP):
        i_member = i_first + i
        if i_member < members:
            i_at = i_member * pixels + i_pixel
            # 1 stands for what lies outside: it is neither NaN nor zero, so it is not counted.
            b_gradients = tl.load(p_gradients + i_at, mask=inside, other=1.0)
            if b_gradients.dtype != tl.float64:
                b_gradients = b_gradients.to(tl.float32)
            b_signs = direction * ((b_gradients > 0).to(tl.int32) - (b_gradients < 0).to(tl.int32))
            if SIGNS:
                b_values = b_signs.to(tl.int8)
            else:
                if not SHARED:
                    b_pixels = to_pixels(tl.load(p_images + i_at, mask=inside, other=0), DTYPE)
                b_values = step_and_clamp(b_pixels, b_signs, epsilon, low, high, DTYPE)
            tl.store(p_values + i_at, b_values, mask=inside)
            b_counts = (b_gradients != b_gradients).to(tl.int32) * NAN + (b_gradients == 0).to(tl.int32)
            tl.store(p_counts + i_member * tl.num_programs(0) + i_tile, tl.sum(b_counts, 0))


@triton.jit
def apply_signs_kernel(
    p_images,
    p_signs,
    p_values,
    members,
    pixels,
    epsilon: tl.float64,
    low: tl.float64,
    high: tl.float64,
    SHARED: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_first = tl.program_id(1).to(tl.int64) * GROUP
    i_pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i_pixel < pixels
    DTYPE: tl.constexpr = p_values.dtype.element_ty
    if SHARED:
        b_pixels = to_pixels(tl.load(p_images + i_pixel, mask=inside, other=0), DTYPE)
    for i in tl.static_range(GROUP):
        i_member = i_first + i
        if i_member < members:
            i_at = i_member * pixels + i_pixel
            if not SHARED:
                b_pixels = to_pixels(tl.load(p_images + i_at, mask=inside, other=0), DTYPE)
            b_signs = tl.load(p_signs + i_at, mask=inside, other=0)
            tl.store(p_values + i_at, step_and_clamp(b_pixels, b_signs, epsilon, low, high, DTYPE), mask=inside)
