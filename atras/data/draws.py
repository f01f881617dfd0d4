"""Images drawn from a set whose order may mean something: sorted by class, by day, by who made them."""

from __future__ import annotations

import torch
from torch import Tensor

from atras.networks import draw_order


def stratified(labels: Tensor, count: int, what: str) -> Tensor:
    """Draw images so that every class has its share of them, up to one image.

    Images are put in a keyed random order and then, keeping it, in that of their classes; of this sequence those at
    even distances are taken. The draw depends on the labels, the number and its purpose alone: it is the same on every
    machine and in every process.

    Args:
        labels: int64 [N].
        count: from 0 to N.
        what: purpose of the draw, which keys it.

    Returns:
        int64 [count], the images' numbers, ascending, on the labels' device.

    Source: systematic sampling from an ordered list; Cochran, "Sampling techniques" (1977), section 8.
    """
    order = draw_order(what, len(labels)).to(labels.device)
    by_class = order[labels[order].argsort(stable=True)]
    places = (2 * torch.arange(count, device=labels.device) + 1) * len(labels) // (2 * max(count, 1))
    return by_class[places].sort().values


def of_each_class(labels: Tensor, count: int) -> Tensor:
    """The first images of every class in turn: the first one of each, then the second one of each, and so on.

    Args:
        labels: int64 [N].
        count: most images.

    Returns:
        int64 [min(count, N)], the images' numbers, ascending, on the labels' device.
    """
    by_class = labels.argsort(stable=True)
    sizes = torch.bincount(labels)
    first = sizes.cumsum(0) - sizes  # place in by_class of the first image of each class
    turn = torch.empty_like(labels)
    turn[by_class] = torch.arange(len(labels), device=labels.device) - first[labels[by_class]]
    return turn.argsort(stable=True)[:count].sort().values
