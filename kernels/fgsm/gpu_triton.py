"""FGSM's pixel update as Triton kernels: a shared image is loaded once for a group of members."""

# No `from __future__ import annotations`: Triton reads the annotations, and float64 ones keep epsilon exact.
import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
LARGEST_GROUP = 8
NAN = tl.constexpr(1 << 16)  # a program's counts share one int32: zeros below, NaN above
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


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


def fgsm(
    images: Tensor,
    gradients: Tensor,
    epsilon: float,
    low: float,
    high: float,
    direction: int,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `dispatch._Fgsm`: images [1 or M, ...], gradients [M, ...]; dtype None asks for int8 signs."""
    images, gradients = images.contiguous(), gradients.contiguous()
    values = torch.empty_like(gradients, dtype=dtype or torch.int8)
    grid, sizes, shared, group = _grid(images, gradients)
    # Each program writes its own counts: integers, summed in any order, and nothing to clear beforehand.
    counts = torch.empty(len(gradients), grid[0], dtype=torch.int32, device=gradients.device)
    if gradients.numel():
        with torch.cuda.device_of(gradients):
            tensors, numbers = (images, gradients, values, counts), (epsilon, low, high, direction)
            fgsm_kernel[grid](*tensors, *sizes, *numbers, shared, dtype is None, group, BLOCK, **OPTIONS)
    return values, (counts >> 16).sum(1), (counts & 0xFFFF).sum(1)


def apply_signs(images: Tensor, signs: Tensor, epsilon: float, low: float, high: float, dtype: torch.dtype) -> Tensor:
    """See `dispatch._ApplySigns`: images [1 or M, ...], signs [M, ...]."""
    images, signs = images.contiguous(), signs.contiguous()
    values = torch.empty_like(signs, dtype=dtype)
    grid, sizes, shared, group = _grid(images, signs)
    if signs.numel():
        with torch.cuda.device_of(signs):
            apply_signs_kernel[grid](images, signs, values, *sizes, epsilon, low, high, shared, group, BLOCK, **OPTIONS)
    return values


def _grid(images: Tensor, directions: Tensor) -> tuple[tuple[int, int], tuple[int, int], bool, int]:
    members, pixels, shared = len(directions), directions.shape[1:].numel(), len(images) == 1
    group = min(LARGEST_GROUP, triton.next_power_of_2(members)) if shared else 1
    return (triton.cdiv(pixels, BLOCK), triton.cdiv(members, group)), (members, pixels), shared, group
