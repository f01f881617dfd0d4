"""Adversarial images made on some networks of a run and tried on others, within a cap on memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atras.attacks import Attack
from atras.data import Dataset
from atras.experiment import Protocol
from atras.networks import Classifier, Member

from .evaluator import Evaluator
from .parts import Held, OriginPart, Part, room_for, whole_parts
from .progress import below_of
from .recorder import Row
from .trials import PHASES, Origin, Trial


class _UnderWay(NamedTuple):
    """Trials some of whose images have been tried.

    Args:
        trials: their numbers.
        batch: images that are attacked at once.
        done: images that all targets have had.
        counts: correct predictions on them, of each trial.
    """

    trials: tuple[int, ...]
    batch: int
    done: int
    counts: tuple[Any, ...]


class _Round(NamedTuple):
    """Images of some origins for a part, of one origin for each of its members.

    Args:
        rows: [M], numbers of the origins: any one for a member that has no trial in this round.
        trials: [M], numbers of the trials, None likewise.
    """

    rows: list[int]
    trials: list[int | None]


MADE, STEPS = "made.", "steps."
"""Begin the names of attacked images, and of the state of an attack, among a transfer's tensors."""


@dataclass
class Transfer:
    """Adversarial test images of some networks, given to others.

    What is counted is kept when memory runs out: `run` can be called again, with smaller parts and less room.

    Args:
        data: on the parts' device.
        protocol: what the evaluation depends on.
        trials: what is tried on what.
        fine: by phase, the members that have parameters: those that did not diverge. Trials of others are left out.
        pause: called between spans of images and between parts; may raise, to stop the transfer there.
    """

    data: Dataset
    protocol: Protocol
    trials: Sequence[Trial]
    fine: Mapping[str, Set[Member]]
    pause: Callable[[], None] = lambda: None
    correct: list[int | None] = field(default_factory=list)
    """Correct predictions of each trial; None of those that are still to come."""
    under_way: _UnderWay | None = None
    """The trials some of whose images are counted, as far as they are."""

    def __post_init__(self) -> None:
        self.correct = [None] * len(self.trials)
        self._made: list[Tensor] = []
        self._steps = _Steps({}, self.pause)

    def run(
        self,
        parts: Sequence[Part[Any]],
        cap: float = math.inf,
        divided: Callable[[Collection[Origin], Sequence[Part[Any]]], Iterator[OriginPart]] = whole_parts,
        held: Held | None = None,
    ) -> None:
        """Attack all origins that are left, and try their images on their targets.

        Args:
            parts: every member that takes part, once.
            cap: most bytes that classifiers and attacked images may take together, one part and its batch excepted.
            divided: from origins and parts to the origins that are attacked together.
            held: classifiers of these parts that are in memory already; others come to them.
        """
        held = Held() if held is None else held
        for attack, left in self.left().items():
            for source in divided(left, parts):
                numbers = [number for origin in source.origins for number in left.get(origin, ())]
                if not numbers:
                    continue
                self.pause()
                self._from(attack, source, sorted(numbers), parts, held, cap)
                self.under_way = None

    def left(self) -> dict[Attack, dict[Origin, list[int]]]:
        """The numbers of the trials that are to come and can be made, by attack and origin."""
        left: dict[Attack, dict[Origin, list[int]]] = {}
        for number, trial in enumerate(self.trials):
            if self.correct[number] is None and self._can(trial):
                left.setdefault(trial.attack, {}).setdefault(trial.origin, []).append(number)
        return left

    def _can(self, trial: Trial) -> bool:
        """Whether no network of a trial diverged."""
        return all(network.member in self.fine[network.phase] for network in (*trial.origin.networks, trial.target))

    def rows(self) -> list[Row]:
        """Rows of frame `transfer` in the order of the trials, without those of members that diverged."""
        pairs = zip(self.trials, self.correct, strict=True)
        return [self._row(trial, correct) for trial, correct in pairs if correct is not None]

    def _row(self, trial: Trial, correct: int) -> Row:
        spec, networks, target = trial.attack.spec, trial.origin.networks, trial.target
        return {
            "phase": target.phase, "source_phase": _common([network.phase for network in networks]),
            "source_hidden_layers": "+".join(dict.fromkeys(network.member.candidate.name for network in networks)),
            "source_seed": _common([network.member.seed for network in networks]),
            "target_hidden_layers": target.member.candidate.name, "variant": target.member.variant.name,
            "seed": target.member.seed,
            "attack": spec.attack, "surrogate": trial.surrogate, "norm": spec.norm, "epsilon": spec.epsilon,
            "label_source": spec.label_source, "target": spec.target,
            "n": len(self.data.test.labels), "correct": correct,
        }  # fmt: skip

    @property
    def share(self) -> float:
        """Of the trials that can be made, how much is done, from 0 to 1."""
        possible = [number for number, trial in enumerate(self.trials) if self._can(trial)]
        done = float(sum(self.correct[number] is not None for number in possible))
        if self.under_way is not None:
            left = [number for number in self.under_way.trials if self.correct[number] is None]
            done += len(left) * min(self.under_way.done / max(len(self.data.test.labels), 1), 1.0)
        return done / len(possible) if possible else 1.0

    def to_dict(self) -> dict[str, Any]:
        """All that is counted so far, as JSON values, for `load`."""
        at = self.under_way
        return {
            "correct": list(self.correct),
            "under_way": at and at._asdict() | {"counts": [int(count) for count in at.counts]},
        }

    def tensors(self) -> dict[str, Tensor]:
        """The images that nobody has had yet, and where the attack on the next ones stands, for `load`."""
        made = {f"{MADE}{number}": images for number, images in enumerate(self._made)}
        under_way = made | {f"{STEPS}{name}": part for name, part in self._steps.last().items()}
        return {name: values.cpu() for name, values in under_way.items()}

    def load(self, kept: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from `to_dict` and `tensors` of the same trials."""
        self.correct = list(kept["correct"])
        if at := kept["under_way"]:
            self.under_way = _UnderWay(tuple(at["trials"]), at["batch"], at["done"], tuple(at["counts"]))
            self._made = [
                tensors[f"{MADE}{number}"] for number in range(sum(name.startswith(MADE) for name in tensors))
            ]
            self._steps = _Steps(below_of(tensors, STEPS), self.pause)

    def let_go(self) -> None:
        """Give up images that nobody has had yet, for the memory that they take."""
        self._made, self._steps = [], _Steps({}, self.pause)

    def _from(
        self,
        attack: Attack,
        source: OriginPart,
        numbers: Sequence[int],
        parts: Sequence[Part[Any]],
        held: Held,
        cap: float,
    ) -> None:
        """Try the images of some origins on all targets of these trials, span after span of the test images."""
        targets = [
            (part, phase, rounds)
            for phase in PHASES
            for part in parts
            if (rounds := self._rounds(source, numbers, part, phase))
        ]
        room = room_for(source.part, parts, cap)
        batch = source.part.evaluation_batch
        if self.under_way is None or self.under_way[:2] != (tuple(numbers), batch):
            self.under_way = _UnderWay(tuple(numbers), batch, 0, (0,) * len(numbers))
            self.let_go()
        counts = dict(zip(numbers, self.under_way.counts, strict=True))
        for first in range(self.under_way.done, len(self.data.test.labels), room.span):
            attacked = self._attacked(
                held.get(source.part, source.phase, room.for_parts), attack, source.part, first, room.span
            )
            for part, phase, rounds in targets:
                networks = held.get(part, phase, room.for_parts)
                for rows, trials in rounds:
                    hits = _hits(networks, attacked, rows, part.evaluation_batch)
                    for place, number in enumerate(trials):
                        if number is not None:
                            counts[number] = counts[number] + hits[place]
                del networks  # it must be free to go while others take their turns
            targets.reverse()  # those that are there still come first
            self.under_way = _UnderWay(tuple(numbers), batch, first + room.span, tuple(counts.values()))
            self.pause()
        for number, count in counts.items():
            self.correct[number] = int(count)

    def _rounds(self, source: OriginPart, numbers: Sequence[int], part: Part[Any], phase: str) -> list[_Round]:
        """The rounds in which a part is given the images of its trials."""
        row_of = {origin: row for row, origin in enumerate(source.origins)}
        own: dict[Member, list[tuple[int, int | None]]] = {member: [] for member in part.members}
        for number in numbers:
            trial = self.trials[number]
            if trial.target.phase == phase and trial.target.member in own:
                own[trial.target.member].append((row_of[trial.origin], number))
        rounds = []
        for turn in range(max(map(len, own.values()))):
            each = [wanted[turn] if turn < len(wanted) else (0, None) for wanted in own.values()]
            rounds.append(_Round([row for row, _ in each], [number for _, number in each]))
        return rounds

    def _attacked(
        self, networks: Classifier, attack: Attack, source: Part[Any], first: int, span: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Adversarial images [M, B, C, H, W] of a span of the test images and their labels [B], batch by batch."""
        evaluator = Evaluator(networks, self.data, self.protocol, source.evaluation_batch)
        begin = first + len(self._made) * source.evaluation_batch
        for chunk, images, labels in evaluator.chunks("test", first=begin, last=first + span):
            steps = _Steps({name: part.to(images.device) for name, part in self._steps.state.items()}, self.pause)
            self._steps = steps
            attacked = evaluator.attack(attack, "test", chunk, images, labels, progress=steps)
            attack.check_inside(float(attacked.distances(attack.norm).max()))
            self._made.append(attacked.clipped)
            self._steps = _Steps({}, self.pause)
        made, self._made = [images.to(networks.device) for images in self._made], []
        labels = self.data.test.labels[first : first + span]
        return list(zip(made, torch.split(labels, source.evaluation_batch), strict=True))


class _Steps:
    """The progress of the attack that is under way.

    Args:
        state: to go on from; empty at the beginning.
        pause: called after each step; may raise, to stop there.
    """

    def __init__(self, state: Mapping[str, Tensor], pause: Callable[[], None]) -> None:
        self.state, self._pause = state, pause
        self.last: Callable[[], Mapping[str, Tensor]] = lambda: state
        """From nothing to the state after the last step."""

    def step(self, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Go on, or stop."""
        self.last = state
        self._pause()


def _common(values: Sequence[Any]) -> Any:
    """The value that all have; None where they differ."""
    return values[0] if len(set(values)) == 1 else None


def _hits(networks: Classifier, attacked: Sequence[tuple[Tensor, Tensor]], rows: list[int], batch: int) -> Tensor:
    """Correct predictions [M] on the images of some sources, with no more at once than the part takes."""
    hits = [
        (networks.logits(images[rows, piece]).argmax(-1) == labels[piece]).sum(1)
        for images, labels in attacked
        for piece in (slice(start, start + batch) for start in range(0, len(labels), batch))
    ]
    return sum(hits[1:], hits[0])
