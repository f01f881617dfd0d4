"""Layers that torch has no module for, as modules of plain torch: what exported networks are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def normalised(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images [..., C, H, W] less a mean, divided by a standard deviation, each one number or one a channel."""
    shift, scale = (torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None] for values in (mean, std))
    return (x - shift) / scale


class Normalise(nn.Module):
    """Images [B, C, H, W] less a mean, divided by a standard deviation. See `InputNorm`."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            numbers = torch.tensor(values, dtype=torch.float64, device="cpu")[:, None, None]
            self.register_buffer(name, numbers, persistent=False)  # fixed, so no entry of its state

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images."""
        return (x - self.mean) / self.std


class ResidualPair(nn.Module):
    """Two 3x3 convolutions and a way around them. See `Residual`."""

    def __init__(
        self, channels: int, filters: int, stride: int, activation: Callable[[], nn.Module], *, projects: bool
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, filters, 3, stride=stride, padding=1)
        self.second = nn.Conv2d(filters, filters, 3, padding=1)
        self.projection: nn.Module = nn.Conv2d(channels, filters, 1, stride=stride) if projects else nn.Identity()
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, filters, ...] of images [B, channels, ...]."""
        values: Tensor = self.activation(self.second(self.activation(self.first(x))) + self.projection(x))
        return values
