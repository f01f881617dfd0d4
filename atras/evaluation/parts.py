"""The networks of a run that are in memory at once, while images of some are tried on others."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from atras.networks import Classifier, Member

from .trials import Origin, Trained

Networks = TypeVar("Networks", bound=Classifier)


@dataclass(frozen=True, eq=False)
class Part(Generic[Networks]):
    """Members that are computed together, and may be made and let go again at any time.

    Args:
        members: which.
        evaluation_batch: images that they take at once.
        make: makes the classifier, with any parameters.
        fill: gives it the parameters of a phase, where members have any.
        predicted_bytes: of the classifier and of what it computes with a batch.
        image_bytes: of one adversarial image of each member.
    """

    members: tuple[Member, ...]
    evaluation_batch: int
    make: Callable[[], Networks]
    fill: Callable[[Networks, str], None]
    predicted_bytes: int = 0
    image_bytes: int = 0


class OriginPart(NamedTuple):
    """Origins whose adversarial images are made together.

    Args:
        part: its axis M is that of the origins.
        phase: that it is filled with.
        origins: M of them.
    """

    part: Part[Any]
    phase: str
    origins: tuple[Origin, ...]


def whole_parts(origins: Collection[Origin], parts: Sequence[Part[Any]]) -> Iterator[OriginPart]:
    """Origins of one network each, with all that is computed together with them."""
    for phase in dict.fromkeys(network.phase for origin in origins for network in origin.networks):
        for part in parts:
            own = tuple(Origin((Trained(phase, member),)) for member in part.members)
            if not set(own).isdisjoint(origins):
                yield OriginPart(part, phase, own)


class Room(NamedTuple):
    """What of a transfer is in memory at once.

    Args:
        span: images that a part is attacked on before the others take their turns.
        for_parts: bytes that classifiers may take together; one is always there, whatever it takes.
    """

    span: int
    for_parts: float


def room_for(source: Part[Any], parts: Sequence[Part[Any]], cap: float) -> Room:
    """All parts at once where they fit; else they take turns, on as many attacked images as half of the rest holds.

    Args:
        source: the part that is attacked.
        parts: all others, perhaps that one among them.
        cap: most bytes.
    """
    parts = parts if source in parts else [source, *parts]
    batch, image, largest = source.evaluation_batch, source.image_bytes, max(part.predicted_bytes for part in parts)
    if sum(part.predicted_bytes for part in parts) + batch * image <= cap:
        return Room(batch, math.inf)
    batches = int(max(0.0, cap - largest) / 2 // (batch * image))
    span = max(1, batches) * batch
    return Room(span, cap - span * image)


class Held:
    """The classifiers that are in memory, the one that was used last at the end."""

    def __init__(self) -> None:
        self._there: dict[Part[Any], tuple[Any, str | None]] = {}

    def get(self, part: Part[Any], phase: str, most: float) -> Classifier:
        """A part's classifier with the parameters of a phase; others go until all take no more than `most` bytes."""
        networks, filled = self._there.pop(part, (None, None))
        while self._there and sum(each.predicted_bytes for each in (part, *self._there)) > most:
            self._let_go(next(iter(self._there)))
        networks = part.make() if networks is None else networks
        if filled != phase:
            part.fill(networks, phase)
        self._there[part] = networks, phase
        return networks

    def only(self, parts: Iterable[Part[Any]]) -> None:
        """Let all others go."""
        kept = set(parts)
        for part in [part for part in self._there if part not in kept]:
            self._let_go(part)

    def _let_go(self, part: Part[Any]) -> None:
        """Free a part's classifier now: its memory is wanted for the next one."""
        still = weakref.ref(self._there.pop(part)[0])
        if still() is not None:  # it refers to itself, as a stack's compiled functions do
            gc.collect()
