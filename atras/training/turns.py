"""An epoch whose copies come batch by batch in turn from several sources and from the network itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

import torch

from atras.engines import Epoch
from atras.evaluation import AllSigns

from .feed import Feed, Pass


def turn_of(epoch: int, number: int, sources: int) -> int:
    """Whose turn it is in a batch, of so many sources; their number for the network itself."""
    return (epoch + number) % (sources + 1)


class Turns:
    """A feed whose batches have the copies of one source after the other, and in the last turn none.

    Args:
        work: the pass, without signs.
        size: images of a batch.
        chunk: as of `Feed`.
        sources: signs of each source, [M, N, C, H, W].
    """

    def __init__(self, work: Pass, size: int, chunk: int, sources: Sequence[AllSigns]) -> None:
        batches = torch.split(work.orders, size, dim=1)
        turns = [turn_of(work.epoch, number, len(sources)) for number in range(len(batches))]
        self._places = [(turn, turns[:number].count(turn)) for number, turn in enumerate(turns)]
        self._feeds: dict[int, Feed] = {}
        for turn in set(turns):
            orders = torch.cat([batch for batch, own in zip(batches, turns, strict=True) if own == turn], 1)
            signs = sources[turn] if turn < len(sources) else None
            self._feeds[turn] = Feed(work._replace(orders=orders, signs=signs), size, chunk)
        self._open = ExitStack()

    def __enter__(self) -> Turns:
        for feed in self._feeds.values():
            self._open.enter_context(feed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def end(self, first: int) -> int:
        """As of `Feed`: a call has one batch."""
        return first + 1

    def part(self, first: int, last: int) -> Epoch:  # noqa: ARG002 (it is the next one)
        """As of `Feed`, of one batch."""
        turn, place = self._places[first]
        return self._feeds[turn].part(place, place + 1)
