"""Op fgsm on the CPU: the C++ extension over tensors of all members."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends


def fgsm(
    images: Tensor,
    gradients: Tensor,
    epsilon: float | Tensor,
    low: float,
    high: float,
    direction: int,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `dispatch._Fgsm`: images [1 or M, ...], gradients [M, ...]; dtype None asks for int8 signs."""
    if gradients.dtype not in (torch.float32, torch.float64):
        gradients = gradients.float()
    images, gradients = images.contiguous(), gradients.contiguous()
    members, pixels = len(gradients), gradients[0].numel() if len(gradients) else 0
    values = torch.empty(gradients.shape, dtype=dtype or torch.int8, device=gradients.device)
    nan_count, zero_count = torch.zeros(2, members, dtype=torch.int64, device=gradients.device)
    outputs = (values.data_ptr(), nan_count.data_ptr(), zero_count.data_ptr())
    epsilons = each(epsilon, members)
    wide, threads, extension = gradients.dtype == torch.float64, torch.get_num_threads(), backends.cpu_extension()
    if dtype is None:
        extension.fgsm_signs(gradients.data_ptr(), *outputs, wide, members, pixels, direction, threads)
    else:
        kind = (len(images) == 1, images.dtype == torch.uint8, wide)
        numbers = (epsilons.data_ptr(), direction, low, high, threads)
        extension.fgsm(images.data_ptr(), gradients.data_ptr(), *outputs, *kind, members, pixels, *numbers)
    return values, nan_count, zero_count


def apply_signs(
    images: Tensor, signs: Tensor, epsilon: float | Tensor, low: float, high: float, dtype: torch.dtype
) -> Tensor:
    """See `dispatch._ApplySigns`: images [1 or M, ...], signs [M, ...]."""
    images, signs = images.contiguous(), signs.contiguous()
    members, pixels = len(signs), signs[0].numel() if len(signs) else 0
    values = torch.empty(signs.shape, dtype=dtype, device=signs.device)
    kind = (len(images) == 1, images.dtype == torch.uint8, dtype == torch.float64)
    pointers = (images.data_ptr(), signs.data_ptr(), values.data_ptr())
    epsilons, threads = each(epsilon, members), torch.get_num_threads()
    numbers = (epsilons.data_ptr(), low, high, threads)
    backends.cpu_extension().apply_signs(*pointers, *kind, members, pixels, *numbers)
    return values


def each(number: float | Tensor, members: int) -> Tensor:
    """float64 [M], the number of each member, as the extension takes it."""
    if isinstance(number, Tensor):
        return number.to("cpu", torch.float64).contiguous()
    return torch.full((members,), number, dtype=torch.float64, device="cpu")
