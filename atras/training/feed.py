"""The images of an epoch as an engine gets them: as they lie on the device, or gathered chunk by chunk."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from atras.data import Split, StoredImages
from atras.engines import Epoch
from atras.evaluation import AllSigns, StoredSigns

from .augmentation import moves_of
from .transfer import Transfer, transfer_to


class Pass(NamedTuple):
    """One pass over a split, or over its images and their adversarial copies.

    Args:
        part: the split.
        orders: int64 [S, n] on the CPU, one for each seed; an index from N on stands for an adversarial copy.
        order_of: int64 [M], the row of `orders` that each member follows.
        signs: which make each member's own copies; None where there are none, or others make them.
        epsilon: strength of the copies; float64 [M] where members have their own.
        augment: such as `crop,flip`, or `none`.
        seeds: of the orders.
        phase, epoch: by which the augmentation is drawn.
    """

    part: Split
    orders: Tensor
    order_of: Tensor
    signs: AllSigns | None
    epsilon: float | Tensor
    augment: str
    seeds: tuple[int, ...]
    phase: str
    epoch: int

    @property
    def whole(self) -> bool:
        """Whether an engine can take the images as they lie."""
        return self.augment == "none" and not self.streamed

    @property
    def streamed(self) -> bool:
        """Whether images or signs stay in a file."""
        return isinstance(self.part.images, StoredImages) or isinstance(self.signs, StoredSigns)


class Feed:
    """A pass, batch by batch.

    Args:
        work: the pass.
        size: images of a batch.
        chunk: images of each order that are gathered at once, at least a batch; nothing is where the pass is whole.
        transfer: the way of chunks to the device; None for the usual one.
    """

    def __init__(self, work: Pass, size: int, chunk: int, transfer: Transfer | None = None) -> None:
        self.work, self.size, self._steps = work, size, max(1, chunk // size)
        self._device = work.order_of.device
        self._whole = self._all() if work.whole else None
        self._transfer = transfer or transfer_to(self._device)
        self._pool = ThreadPoolExecutor(1, "atras-feed") if work.streamed else None
        self._number = -1
        self._current: Epoch | None = None
        self._next: tuple[int, Future[Any]] | None = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._current = self._next = None

    def end(self, first: int) -> int:
        """Number of the batch before which a call that begins with the first one must end."""
        batches = -(-self.work.orders.shape[1] // self.size)
        return batches if self._whole is not None else min(batches, (first // self._steps + 1) * self._steps)

    def part(self, first: int, last: int) -> Epoch:
        """The batches from the first on, before the last one."""
        if self._whole is not None:
            return self._cut(self._whole, first, last)
        number = first // self._steps
        begin = number * self._steps
        return self._cut(self._chunk(number), first - begin, last - begin)

    def _cut(self, epoch: Epoch, first: int, last: int) -> Epoch:
        return epoch._replace(orders=epoch.orders[:, first * self.size : last * self.size])

    def _all(self) -> Epoch:
        part, work = self.work.part, self.work
        assert isinstance(part.images, Tensor) and not isinstance(work.signs, StoredSigns)  # noqa: PT018, S101
        return Epoch(part.images, part.labels, work.orders.to(self._device), work.order_of, work.signs, work.epsilon)

    def _chunk(self, number: int) -> Epoch:
        """A chunk on the device; the next one is begun."""
        if self._current is None or number != self._number:
            self._current = None  # its memory is the next one's
            if self._next is not None and self._next[0] == number:
                under_way = self._next[1].result()
            else:
                under_way = self._begun(number)
            self._next = None
            self._current, self._number = self._finished(number, under_way), number
            if self._pool is not None and (number + 1) * self._steps * self.size < self.work.orders.shape[1]:
                self._next = number + 1, self._pool.submit(self._begun, number + 1)
        return self._current

    def _places(self, number: int) -> tuple[np.ndarray, Tensor, Tensor]:
        """Numbers [K] of the images of a chunk, and of each of its orders [S, n] the places in them and whether it is
        the copy."""
        step = self._steps * self.size
        index = self.work.orders[:, number * step : (number + 1) * step].numpy()
        numbers, places = np.unique(index % len(self.work.part), return_inverse=True)
        return numbers, torch.from_numpy(places.reshape(index.shape)), torch.from_numpy(index >= len(self.work.part))

    def _begun(self, number: int) -> Any:
        """Images and signs of a chunk that are on the host, on their way to the device.

        In numpy, which computes in the calling thread alone: others belong to the engine.
        """
        numbers, images, signs = self._places(number)[0], self.work.part.images, self.work.signs
        found = [
            torch.from_numpy(images.on_host(numbers)) if isinstance(images, StoredImages) else None,
            torch.from_numpy(signs.on_host(numbers)) if isinstance(signs, StoredSigns) else None,
        ]
        return self._transfer.start(found)

    def _finished(self, number: int, under_way: Any) -> Epoch:
        work, (numbers, places, copied) = self.work, self._places(number)
        there = torch.from_numpy(numbers).to(self._device)
        images, signs = self._transfer.finish(under_way)
        images = work.part.images[there] if images is None else images
        if signs is None and isinstance(work.signs, Tensor):
            signs = work.signs[:, there]
        labels = work.part.labels[there]
        places, copied = places.to(self._device), copied.to(self._device)
        if work.augment != "none":
            images, signs = self._moved(number, images, signs, places)
            labels, places = labels[places.flatten()], torch.arange(places.numel(), device=self._device).view_as(places)
        orders = places + len(labels) * copied
        return Epoch(images, labels, orders, work.order_of, signs, work.epsilon)

    def _moved(self, number: int, images: Tensor, signs: Tensor | None, places: Tensor) -> tuple[Tensor, Tensor | None]:
        """An image [S * n, C, H, W] for every position of the orders, moved by its own draw, and its signs likewise."""
        work, count = self.work, places.shape[1]
        step = self._steps * self.size
        orders = work.orders[:, number * step : (number + 1) * step].to(self._device)
        moved = images.new_empty(places.numel(), *images.shape[1:])
        moved_signs = None if signs is None else signs.new_zeros(len(signs), *moved.shape)
        for row, seed in enumerate(work.seeds):
            own = slice(row * count, (row + 1) * count)
            moves = moves_of(work.augment, seed, work.phase, work.epoch, orders[row], *images.shape[-2:])
            moves.applied(images[places[row]], moved[own])
            if signs is not None and moved_signs is not None:
                for member in (work.order_of == row).nonzero()[:, 0].tolist():
                    moves.applied(signs[member, places[row]], moved_signs[member, own])
        return moved, moved_signs
