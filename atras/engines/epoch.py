"""The work of an epoch, as it is handed to an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from atras.data import pixels
from atras.kernels import apply_signs
from atras.networks import StepResult, Trainable

BatchStep = Callable[[Trainable, Tensor, Tensor, Tensor, int], StepResult]
"""From an engine, a batch's images and labels, which of them are copies (bool [B] or [M, B]), and the batch's number in
the work, to what its training step reported."""


class Epoch(NamedTuple):
    """One pass over the training images, or over them and their adversarial copies.

    Args:
        images: [N, C, H, W], uint8 or float32, shared by all members.
        labels: int64 [N].
        orders: int64 [S, n], an order of the images for each seed; an index from N on stands for an adversarial copy.
        order_of: int64 [M], the row of `orders` that each member follows.
        signs: int8 [M, N, C, H, W], which make each member's own copies; None where there are none.
        epsilon: attack strength of the copies; float64 [M] where members have their own.
        batch_step: trains on each batch; None for the engine's own step on the images and their copies by signs.
    """

    images: Tensor
    labels: Tensor
    orders: Tensor
    order_of: Tensor
    signs: Tensor | None
    epsilon: float | Tensor
    batch_step: BatchStep | None = None

    def batches(self, size: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images, labels and which are copies, step by step: shared by all members where nothing tells them apart."""
        for index in torch.split(self.orders, size, dim=1):
            index = index[0] if len(self.orders) == 1 else index[self.order_of]
            base, copied = index % len(self.labels), index >= len(self.labels)
            images, labels = pixels(self.images[base], dtype), self.labels[base]
            if self.signs is not None:
                members = torch.arange(len(self.signs), device=base.device)[:, None]
                kept = copied.to(torch.int8)[..., None, None, None]
                images = apply_signs(images, self.signs[members, base] * kept, self.epsilon, dtype=dtype)
            yield images, labels, copied
