"""Attacks made on one candidate, tried on every other one: all pairs of a population."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atras.attacks.attack import FGSM
from atras.data.datasets import Dataset
from atras.engines.engine import Engine, Member
from atras.errors import Interrupted
from atras.experiment.protocol import Protocol
from atras.networks.network import Parameters

from .evaluator import Evaluation
from .recorder import Row

PHASES = ("trained", "defended")

Networks = Callable[[str, Member], Parameters | None]
"""From a phase and a member to its parameters; None for one that diverged."""


class Part(NamedTuple):
    """Members that are computed together, and how many images they take at once."""

    engine: Engine
    evaluation_batch: int


def transfer(
    parts: Sequence[Part], networks: Networks, data: Dataset, protocol: Protocol, stop: Callable[[], bool] | None = None
) -> list[Row]:
    """Give the adversarial test images of every member to all members of its seed, in both phases.

    The attack is FGSM at the true label. All parts stay in memory with their parameters alone; what is made of the
    images is gone after each chunk.

    Args:
        parts: every member of the protocol once.
        networks: their parameters.
        data: on the parts' device.
        protocol: candidates, seeds, epsilon.
        stop: asked between parts whether to stop.

    Returns:
        Rows of frame `transfer`, by phase, source, target and seed, without those of members that diverged.

    Raises:
        Interrupted: if `stop` said so.
    """
    rows: list[Row] = []
    for phase in PHASES:
        counts = _Counts(parts, data, protocol)
        fine = {member: _pour(part.engine, i, networks(phase, member)) for part, i, member in counts.members}
        for part in parts:
            if stop is not None and stop():
                raise Interrupted
            counts.attack_from(part)
        for source, target, seed in itertools.product(protocol.candidates, protocol.candidates, protocol.seeds):
            if fine[Member(source, seed)] and fine[Member(target, seed)]:
                rows.append({
                    "dataset": data.name, "phase": phase, "source_hidden_layers": source.name,
                    "target_hidden_layers": target.name, "seed": seed, "attack": "fgsm",
                    "epsilon": protocol.epsilon, "label_source": "true", "n": len(data.test.labels),
                    "correct": counts.correct[source.name, Member(target, seed)], "protocol_hash": protocol.hash,
                })  # fmt: skip
    return rows


def _pour(engine: Engine, index: int, parameters: Parameters | None) -> bool:
    if parameters is None:
        return False
    engine.pour_in(index, parameters)
    return True


class _Counts:
    """Correct predictions of each target on the images of each source candidate of its seed."""

    def __init__(self, parts: Sequence[Part], data: Dataset, protocol: Protocol) -> None:
        self.parts, self.data, self.protocol = parts, data, protocol
        self.members = [(part, i, member) for part in parts for i, member in enumerate(part.engine.members)]
        self.correct: dict[tuple[str, Member], int] = {}

    def attack_from(self, source: Part) -> None:
        """Attack the members of a part, and try the images on all parts."""
        candidates = dict.fromkeys(member.candidate for member in source.engine.members)
        hits = {(c, j): torch.zeros(len(part.engine.members), dtype=torch.int64, device=part.engine.device)
                for c in candidates for j, part in enumerate(self.parts)}  # fmt: skip
        evaluation = Evaluation(source.engine, self.data, self.protocol, source.evaluation_batch)
        attack = FGSM(self.protocol.epsilon)
        for _, images, labels in evaluation.chunks("test"):
            adversarial = attack(source.engine, images, labels).clipped
            for c, j in hits:
                rows = self._rows(source, c.name, self.parts[j])
                hits[c, j] += _hits(self.parts[j], adversarial[rows], labels)
        for (c, j), counts in hits.items():
            seeds = {member.seed for member in source.engine.members if member.candidate == c}
            for member, count in zip(self.parts[j].engine.members, counts.tolist(), strict=True):
                if member.seed in seeds:
                    self.correct[c.name, member] = count

    def _rows(self, source: Part, candidate: str, target: Part) -> list[int]:
        """For each target the source member of its seed; any where this part has none, as another part has it."""
        own = {m.seed: i for i, m in enumerate(source.engine.members) if m.candidate.name == candidate}
        anyone = next(iter(own.values()))
        return [own.get(member.seed, anyone) for member in target.engine.members]


def _hits(part: Part, images: Tensor, labels: Tensor) -> Tensor:
    """Correct predictions [M] on images [M, B, C, H, W], with no more at once than the part takes."""
    correct = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    for start in range(0, len(labels), part.evaluation_batch):
        piece = slice(start, start + part.evaluation_batch)
        correct += (part.engine.logits(images[:, piece]).argmax(-1) == labels[piece]).sum(1)
    return correct
