"""Evaluating and attacking the members of an engine on a data set, chunk by chunk.

What each figure means is defined in docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from atras.attacks.attack import FGSM, Attack, Attacked, Signed, starts
from atras.attacks.registry import GAP_IMAGES, gap_attacks, protocol_attack, stronger
from atras.data.datasets import Dataset, Split, pixels
from atras.engines.engine import Engine
from atras.experiment.protocol import Protocol
from atras.kernels import apply_signs
from atras.networks.randomness import random_targets

from .counters import Score, Survivors, Tally

Hear = Callable[[Signed, Tensor, slice], None]
"""Told of each chunk that FGSM at the true label attacked: its examples, their logits [M, B, Y], and which they are."""


class Figures(NamedTuple):
    """What one pass over the test images gave.

    Args:
        clean: of the images as they are.
        attacks: of each attack.
        curve: of FGSM at the true label at each epsilon of the protocol but its own.
        worst: an image counts where it survives FGSM at the true label and all the stronger attacks.
    """

    clean: Score
    attacks: dict[Attack, Score]
    curve: dict[float, Score]
    worst: Score


class Evaluation:
    """The members of an engine before a data set.

    Args:
        engine: the members, at any point of their training.
        data: on the engine's device.
        protocol: which attacks.
        evaluation_batch: images a forward pass in evaluation and attack.
    """

    def __init__(self, engine: Engine, data: Dataset, protocol: Protocol, evaluation_batch: int = 250) -> None:
        self.engine, self.data, self.protocol = engine, data, protocol
        self.evaluation_batch = evaluation_batch
        self.attack = protocol_attack(protocol)
        self.honest_attack = FGSM(protocol.epsilon, "true")
        self.stronger = stronger(protocol)
        self.seeds = list(dict.fromkeys(member.seed for member in engine.members))
        self.seed_of = torch.tensor([self.seeds.index(m.seed) for m in engine.members], device=engine.device)
        self.pause: Callable[[], None] = lambda: None
        """Called between the chunks of an evaluation; may raise to stop it."""

    def score(self, split: str, signs: Tensor | None = None) -> Score:
        """Evaluate on clean images, or on the adversarial ones that these signs [M, N, C, H, W] make of them."""
        tally = Tally(self.engine)
        for chunk, images, labels in self.chunks(split):
            if signs is None:
                tally.add(self.engine.logits(images), labels)
            else:
                adversarial = apply_signs(images, signs[:, chunk], self.protocol.epsilon, dtype=self.engine.dtype)
                tally.add(self.engine.logits(adversarial), labels)
                tally.add_change(images, adversarial)
        return tally.score()

    def signs_of(self, split: str) -> tuple[Tensor, Score]:
        """Signs [M, N, C, H, W] of the protocol's attack on a split, and the score of its clean images."""
        tally, kept = Tally(self.engine), self._empty_signs(split)
        for chunk, images, labels in self.chunks(split):
            attacked = self.attack(self.engine, images, labels, self._targets(self.attack, split, chunk))
            kept[:, chunk] = attacked.signs
            tally.add(attacked.clean_logits, labels)
        return kept, tally.score()

    def gap(self) -> dict[Attack, Score]:
        """Attack the first training images with FGSM and PGD."""
        tallies = {attack: Tally(self.engine) for attack in gap_attacks(self.protocol)}
        for chunk, images, labels in self.chunks("train", GAP_IMAGES):
            for _, tally, attacked in self._attack(tallies, "train", chunk, images, labels):
                tally.add_attacked(attacked, attacked.logits_of(self.engine), labels)
        return {attack: tally.score() for attack, tally in tallies.items()}

    def attack_test(self, first: FGSM | None = None, hear: Hear | None = None) -> tuple[Figures, Tensor]:
        """Attack every test image with FGSM at the true label and with what else the protocol names.

        Args:
            first: an attack to be made besides.
            hear: told of every chunk.

        Returns:
            The figures, and the signs int8 [M, N, C, H, W] of the first attack, N being 0 without one.
        """
        counted = [self.honest_attack, *self.stronger]
        kept = self._empty_signs("test", wanted=first is not None)
        tallies: dict[Attack, Tally] = {
            attack: Tally(self.engine) for attack in ([first, *counted] if first else counted)
        }
        curve = {e: Tally(self.engine) for e in self.protocol.epsilons if e != self.protocol.epsilon}
        clean, survivors = Tally(self.engine), Survivors(self.engine)
        for chunk, images, labels in self.chunks("test"):
            alive = []
            for attack, tally, attacked in self._attack(tallies, "test", chunk, images, labels):
                logits = attacked.logits_of(self.engine)
                hits, change = tally.add_attacked(attacked, logits, labels)
                if attack in counted:
                    alive.append(hits if attack.label.epsilon is not None else hits | (change > attack.epsilon))
                if attack == next(iter(tallies)) and isinstance(attacked, Signed):
                    clean.add(attacked.clean_logits, labels)
                    if first is not None:
                        kept[:, chunk] = attacked.signs
                if attack == self.honest_attack and isinstance(attacked, Signed):
                    self._count_curve(curve, attacked, labels)
                    if hear is not None:
                        hear(attacked, logits, chunk)
            survivors.add(alive)
        worst = survivors.score([tallies[attack] for attack in counted])
        scores = {attack: tally.score() for attack, tally in tallies.items()}
        return Figures(clean.score(), scores, {e: tally.score() for e, tally in curve.items()}, worst), kept

    def chunks(self, split: str, most: int | None = None) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Numbers, pixels and labels of a split's images, a forward pass at a time; of the first `most` alone."""
        part: Split = getattr(self.data, split)
        count = min(len(part.labels), most or len(part.labels))
        for start in range(0, count, self.evaluation_batch):
            self.pause()
            chunk = slice(start, min(start + self.evaluation_batch, count))
            yield chunk, pixels(part.images[chunk], self.engine.dtype), part.labels[chunk]

    def _attack(
        self, tallies: dict[Attack, Tally], split: str, chunk: slice, images: Tensor, labels: Tensor
    ) -> Iterator[tuple[Attack, Tally, Attacked]]:
        """Make attack after attack on one chunk; the first one's clean logits serve all."""
        clean_logits = None
        for attack, tally in tallies.items():
            targets, draw = (
                self._targets(attack, split, chunk),
                starts(self.engine, images, attack.name, split, chunk.start),
            )
            attacked = attack(self.engine, images, labels, targets, clean_logits=clean_logits, draw=draw)
            clean_logits = attacked.clean_logits
            yield attack, tally, attacked

    def _count_curve(self, curve: dict[float, Tally], attacked: Signed, labels: Tensor) -> None:
        """Evaluate other epsilons of an attack on one chunk, from the signs that it has."""
        for epsilon, tally in curve.items():
            adversarial = attacked.moved_by(epsilon)
            moved = replace(attacked, clipped=adversarial, epsilon=epsilon)
            logits = self.engine.logits(adversarial) if epsilon else attacked.clean_logits
            tally.add_attacked(moved, logits, labels)

    def _targets(self, attack: Attack, split: str, chunk: slice) -> Tensor | None:
        if attack.target != "random":
            return None
        labels = getattr(self.data, split).labels
        own = [random_targets(seed, split, labels, self.data.classes) for seed in self.seeds]
        return torch.stack(own)[self.seed_of][:, chunk]

    def _empty_signs(self, split: str, wanted: bool = True) -> Tensor:
        images = getattr(self.data, split).images
        shape = (len(self.engine.members), len(images) if wanted else 0, *images.shape[1:])
        return torch.empty(shape, dtype=torch.int8, device=images.device)
