"""Attacks made on one candidate, tried on every other one: all pairs of a population, within a cap on memory."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from atras.attacks import Attack
from atras.data import Dataset
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Classifier, Member

from .evaluator import Evaluator
from .recorder import Row

Networks = TypeVar("Networks", bound=Classifier)

PHASES = ("trained", "defended")
"""The networks of a run: after the first and after the second training."""


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
        parts: all.
        cap: most bytes.
    """
    batch, image, largest = source.evaluation_batch, source.image_bytes, max(part.predicted_bytes for part in parts)
    if sum(part.predicted_bytes for part in parts) + batch * image <= cap:
        return Room(batch, math.inf)
    batches = int(max(0.0, cap - largest) / 2 // (batch * image))
    span = max(1, batches) * batch
    return Room(span, cap - span * image)


class _UnderWay(NamedTuple):
    """A source some of whose images have been tried.

    Args:
        phase, members: of the source.
        done: images that all targets have had.
        counts: correct predictions on them, by source candidate and target.
    """

    phase: str
    members: tuple[Member, ...]
    done: int
    counts: Mapping[tuple[str, Member], Any]


def _named(member: Member) -> list[Any]:
    return [member.candidate.name, member.seed]


def _member(name: str, seed: int) -> Member:
    return Member(Candidate.parse(name), seed)


@dataclass
class Transfer:
    """The adversarial test images of every member, given to all members of its seed, in both phases.

    What is counted is kept when memory runs out: `run` can be called again, with smaller parts and less room.

    Args:
        data: on the parts' device.
        protocol: candidates, seeds, epsilon.
        fine: by phase, the members that have parameters: those that did not diverge.
        attack: made on the sources; without an epsilon of its own it takes the protocol's. None for FGSM at the true
            label.
        pause: called between spans of images and between parts; may raise, to stop the transfer there.

    Raises:
        InputError: if the attack is a targeted one.
    """

    data: Dataset
    protocol: Protocol
    fine: Mapping[str, set[Member]]
    attack: Attack | None = None
    pause: Callable[[], None] = lambda: None
    correct: dict[tuple[str, str, Member], int] = field(default_factory=dict)
    """Correct predictions by phase, source candidate and target, on the images of the source of the target's seed."""
    tried: set[tuple[str, Member]] = field(default_factory=set)
    """The sources, by phase, whose images all targets have had."""
    under_way: _UnderWay | None = None
    """The source whose images some targets have had, as far as they are counted."""

    def __post_init__(self) -> None:
        given = self.attack
        self._attack = self.protocol.true_label_attack if given is None else given.at(self.protocol.epsilon)
        if self._attack.target != "none":
            raise InputError(
                f"transfer: attack (={self._attack}): expected an untargeted one, whose rows tell it from others"
            )

    def run(self, parts: Sequence[Part[Any]], cap: float = math.inf) -> None:
        """Attack all sources that are left, and try their images on all targets.

        Args:
            parts: every member of the protocol once.
            cap: most bytes that classifiers and attacked images may take together, one part and its batch excepted.
        """
        held = _Held()
        for phase in PHASES:
            for source in parts:
                if all((phase, member) in self.tried for member in source.members):
                    continue
                self.pause()
                self._from(phase, source, parts, held, cap)
                self.tried |= {(phase, member) for member in source.members}
                self.under_way = None

    def rows(self) -> list[Row]:
        """Rows of frame `transfer`, by phase, source, target and seed, without those of members that diverged."""
        spec, candidates = self._attack.spec, self.protocol.candidates
        return [
            {
                "phase": phase, "source_hidden_layers": source.name, "target_hidden_layers": target.name,
                "seed": seed, "attack": spec.attack, "norm": spec.norm, "epsilon": spec.epsilon,
                "label_source": spec.label_source,
                "n": len(self.data.test.labels), "correct": self.correct[phase, source.name, Member(target, seed)],
            }
            for phase in PHASES
            for source, target, seed in itertools.product(candidates, candidates, self.protocol.seeds)
            if {Member(source, seed), Member(target, seed)} <= self.fine[phase]
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """All that is counted so far, as JSON values, for `load`."""
        at = self.under_way
        return {
            "correct": [[phase, name, *_named(member), n] for (phase, name, member), n in self.correct.items()],
            "tried": [[phase, *_named(member)] for phase, member in self.tried],
            "under_way": at and {
                "phase": at.phase, "members": [_named(member) for member in at.members], "done": at.done,
                "counts": [[name, *_named(member), int(n)] for (name, member), n in at.counts.items()],
            },
        }  # fmt: skip

    def load(self, kept: Mapping[str, Any]) -> None:
        """Go on from `to_dict`."""
        self.correct = {(phase, name, _member(*member)): n for phase, name, *member, n in kept["correct"]}
        self.tried = {(phase, _member(*member)) for phase, *member in kept["tried"]}
        if at := kept["under_way"]:
            counts = {(name, _member(*member)): n for name, *member, n in at["counts"]}
            self.under_way = _UnderWay(at["phase"], tuple(_member(*m) for m in at["members"]), at["done"], counts)

    def _from(self, phase: str, source: Part[Any], parts: Sequence[Part[Any]], held: _Held, cap: float) -> None:
        """Try the images of a part's members on all parts, span after span of the test images."""
        seeds = {member.seed for member in source.members}
        targets = [part for part in parts if seeds & {member.seed for member in part.members}]
        room = room_for(source, parts, cap)
        if self.under_way is None or self.under_way[:2] != (phase, source.members):
            self.under_way = _UnderWay(phase, source.members, 0, {})
        counts: dict[tuple[str, Member], Any] = dict(self.under_way.counts)
        for first in range(self.under_way.done, len(self.data.test.labels), room.span):
            attacked = self._attacked(held.get(source, phase, room.for_parts), source, first, room.span)
            for target in targets:
                networks = held.get(target, phase, room.for_parts)
                for candidate, rows in _rows(source, target).items():
                    hits = _hits(networks, attacked, rows, target.evaluation_batch)
                    for place, member in enumerate(target.members):
                        key = candidate, member
                        counts[key] = counts[key] + hits[place] if key in counts else hits[place]
                del networks  # it must be free to go while others take their turns
            targets.reverse()  # those that are there still come first
            self.under_way = _UnderWay(phase, source.members, first + room.span, counts)
            self.pause()
        own = {(member.candidate.name, member.seed) for member in source.members}
        for (candidate, member), count in counts.items():
            if (candidate, member.seed) in own:
                self.correct[phase, candidate, member] = int(count)

    def _attacked(self, networks: Classifier, source: Part[Any], first: int, span: int) -> list[tuple[Tensor, Tensor]]:
        """Adversarial images [M, B, C, H, W] of a span of the test images and their labels [B], batch by batch."""
        evaluator = Evaluator(networks, self.data, self.protocol, source.evaluation_batch)
        return [
            (evaluator.attack(self._attack, "test", chunk, images, labels).clipped, labels)
            for chunk, images, labels in evaluator.chunks("test", first=first, last=first + span)
        ]


class _Held:
    """The classifiers that are in memory, the one that was used last at the end."""

    def __init__(self) -> None:
        self._there: dict[Part[Any], tuple[Any, str]] = {}

    def get(self, part: Part[Any], phase: str, most: float) -> Classifier:
        """A part's classifier with the parameters of a phase; others go until all take no more than `most` bytes."""
        networks, filled = self._there.pop(part, (None, ""))
        while self._there and sum(each.predicted_bytes for each in (part, *self._there)) > most:
            self._let_go(next(iter(self._there)))
        networks = part.make() if networks is None else networks
        if filled != phase:
            part.fill(networks, phase)
        self._there[part] = networks, phase
        return networks

    def _let_go(self, part: Part[Any]) -> None:
        """Free a part's classifier now: its memory is wanted for the next one."""
        still = weakref.ref(self._there.pop(part)[0])
        if still() is not None:  # it refers to itself, as a stack's compiled functions do
            gc.collect()


def _rows(source: Part[Any], target: Part[Any]) -> dict[str, list[int]]:
    """By candidate of a source, for each target the source member of its seed.

    Any member where this part has none of that seed, as another part has it: what is counted there is left out.
    """
    rows = {}
    for candidate in dict.fromkeys(member.candidate for member in source.members):
        own = {m.seed: place for place, m in enumerate(source.members) if m.candidate == candidate}
        anyone = next(iter(own.values()))
        if any(member.seed in own for member in target.members):
            rows[candidate.name] = [own.get(member.seed, anyone) for member in target.members]
    return rows


def _hits(networks: Classifier, attacked: Sequence[tuple[Tensor, Tensor]], rows: list[int], batch: int) -> Tensor:
    """Correct predictions [M] on the images of some sources, with no more at once than the part takes."""
    hits = [
        (networks.logits(images[rows, piece]).argmax(-1) == labels[piece]).sum(1)
        for images, labels in attacked
        for piece in (slice(start, start + batch) for start in range(0, len(labels), batch))
    ]
    return sum(hits[1:], hits[0])
