"""Attacks made on one candidate, tried on every other one: all pairs of a population."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atras.attacks import Attack
from atras.data import Dataset
from atras.errors import InputError, Interrupted
from atras.experiment import Protocol
from atras.networks import Classifier, Member

from .evaluator import Evaluator
from .recorder import Row

PHASES = ("trained", "defended")
"""The networks of a run: after the first and after the second training."""

SetPhase = Callable[[str], Iterable[Member]]
"""Gives the classifiers the parameters of a phase, and tells which members have any: those that did not diverge."""


class Part(NamedTuple):
    """Members that are computed together.

    Args:
        networks: the members.
        evaluation_batch: images that they take at once.
    """

    networks: Classifier
    evaluation_batch: int


def transfer(
    parts: Sequence[Part],
    set_phase: SetPhase,
    data: Dataset,
    protocol: Protocol,
    stop: Callable[[], bool] = lambda: False,
    attack: Attack | None = None,
) -> list[Row]:
    """Give the adversarial test images of every member to all members of its seed, in both phases.

    All parts stay in memory with their parameters alone; what is made of the
    images is gone after each chunk.

    Args:
        parts: every member of the protocol once.
        set_phase: gives them the parameters of a phase.
        data: on the parts' device.
        protocol: candidates, seeds, epsilon.
        stop: asked between parts whether to stop.
        attack: made on the sources; without an epsilon of its own it takes the protocol's. None for FGSM at the true
            label.

    Returns:
        Rows of frame `transfer`, by phase, source, target and seed, without those of members that diverged.

    Raises:
        InputError: if the attack is a targeted one.
        Interrupted: if `stop` said so.
    """
    rows: list[Row] = []
    attack = protocol.true_label_attack if attack is None else attack.at(protocol.epsilon)
    if attack.target != "none":
        raise InputError(f"transfer: attack (={attack}): expected an untargeted one, whose rows tell it from others")
    for phase in PHASES:
        counts = _Counts(parts, data, protocol, attack)
        fine = set(set_phase(phase))
        for part in parts:
            if stop():
                raise Interrupted
            counts.attack_from(part)
        for source, target, seed in itertools.product(protocol.candidates, protocol.candidates, protocol.seeds):
            if {Member(source, seed), Member(target, seed)} <= fine:
                rows.append({
                    "phase": phase, "source_hidden_layers": source.name, "target_hidden_layers": target.name,
                    "seed": seed, "attack": attack.spec.attack, "epsilon": attack.spec.epsilon,
                    "label_source": attack.spec.label_source, "n": len(data.test.labels),
                    "correct": counts.correct[source.name, Member(target, seed)],
                })  # fmt: skip
    return rows


class _Counts:
    """Correct predictions of each target on the images of each source candidate of its seed."""

    def __init__(self, parts: Sequence[Part], data: Dataset, protocol: Protocol, attack: Attack) -> None:
        self.parts, self.data, self.protocol, self.attack = parts, data, protocol, attack
        self.correct: dict[tuple[str, Member], int] = {}

    def attack_from(self, source: Part) -> None:
        """Attack the members of a part, and try the images on all parts."""
        candidates = dict.fromkeys(member.candidate for member in source.networks.members)
        hits = {(c, j): torch.zeros(len(part.networks.members), dtype=torch.int64, device=part.networks.device)
                for c in candidates for j, part in enumerate(self.parts)}  # fmt: skip
        evaluator = Evaluator(source.networks, self.data, self.protocol, source.evaluation_batch)
        for chunk, images, labels in evaluator.chunks("test"):
            adversarial = evaluator.attack(self.attack, "test", chunk, images, labels).clipped
            for c, j in hits:
                rows = self._rows(source, c.name, self.parts[j])
                hits[c, j] += _hits(self.parts[j], adversarial[rows], labels)
        for (c, j), counts in hits.items():
            seeds = {member.seed for member in source.networks.members if member.candidate == c}
            for member, count in zip(self.parts[j].networks.members, counts.tolist(), strict=True):
                if member.seed in seeds:
                    self.correct[c.name, member] = count

    def _rows(self, source: Part, candidate: str, target: Part) -> list[int]:
        """For each target the source member of its seed; any where this part has none, as another part has it."""
        own = {m.seed: i for i, m in enumerate(source.networks.members) if m.candidate.name == candidate}
        anyone = next(iter(own.values()))
        return [own.get(member.seed, anyone) for member in target.networks.members]


def _hits(part: Part, images: Tensor, labels: Tensor) -> Tensor:
    """Correct predictions [M] on images [M, B, C, H, W], with no more at once than the part takes."""
    correct = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    for start in range(0, len(labels), part.evaluation_batch):
        piece = slice(start, start + part.evaluation_batch)
        correct += (part.networks.logits(images[:, piece]).argmax(-1) == labels[piece]).sum(1)
    return correct
