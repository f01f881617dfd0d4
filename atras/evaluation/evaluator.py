"""Evaluating and attacking a population on a data set, chunk by chunk.

The meaning of each figure is defined in docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from atras.attacks import FGSM, PGD, Attack, Attacked, Signed, Start, starts
from atras.data import Dataset, Split, pixels
from atras.experiment import Protocol
from atras.kernels import apply_signs
from atras.networks import Classifier, random_targets, seeds_of

from .counters import Counter, Score, Survivors

OnExamples = Callable[[Signed, Tensor, slice], None]
"""Told of each chunk that FGSM at the true label attacked: its examples, their logits [M, B, Y], and their numbers."""

GAP_IMAGES = 100
"""First training images on which FGSM and PGD are compared after each epoch whose copies were made in every batch."""

GAP_STEPS = 10
"""Steps of PGD in that comparison."""


class Figures(NamedTuple):
    """The scores of one pass over the test images.

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


class Evaluator:
    """Evaluation and attacks of a population on a data set.

    Args:
        networks: the members, at any point of their training.
        data: on their device.
        protocol: which attacks.
        evaluation_batch: images a forward pass in evaluation and attack.
    """

    def __init__(self, networks: Classifier, data: Dataset, protocol: Protocol, evaluation_batch: int = 250) -> None:
        self.networks, self.data, self.protocol = networks, data, protocol
        self.evaluation_batch = evaluation_batch
        self.seeds, places = seeds_of(networks.members)
        self.seed_of = torch.tensor(places, dtype=torch.int64, device=networks.device)
        self.pause: Callable[[], None] = lambda: None
        """Called between the chunks of an evaluation; may raise to stop it."""

    def score(self, split: str, signs: Tensor | None = None) -> Score:
        """Evaluate on clean images, or on the adversarial ones that these signs [M, N, C, H, W] make of them."""
        counter = Counter(self.networks)
        for chunk, images, labels in self.chunks(split):
            if signs is None:
                counter.add(self.networks.logits(images), labels)
            else:
                adversarial = apply_signs(images, signs[:, chunk], self.protocol.epsilon, dtype=self.networks.dtype)
                counter.add(self.networks.logits(adversarial), labels)
        return counter.score()

    def signs_of(self, split: str) -> tuple[Tensor, Score]:
        """Signs [M, N, C, H, W] of the protocol's attack on a split, and the score of its clean images."""
        counter, signs, attack = Counter(self.networks), self._empty_signs(split), self.protocol.attack
        for chunk, images, labels in self.chunks(split):
            start = Start(targets=self._targets(attack, split, chunk))
            attacked = attack(self.networks, images, labels, start=start)
            signs[:, chunk] = attacked.signs
            counter.add(attacked.clean_logits, labels)
        return signs, counter.score()

    def gap(self) -> dict[Attack, Score]:
        """Attack the first training images with FGSM and with the PGD that it should not be far from."""
        epsilon = self.protocol.epsilon
        attacks: tuple[Attack, ...] = (FGSM(epsilon), PGD(epsilon, steps=GAP_STEPS))
        counters = {attack: Counter(self.networks) for attack in attacks}
        for chunk, images, labels in self.chunks("train", GAP_IMAGES):
            for _, counter, attacked in self._attack(counters, "train", chunk, images, labels):
                counter.add_attacked(attacked, attacked.logits_of(self.networks), labels)
        return {attack: counter.score() for attack, counter in counters.items()}

    def attack_test(self, first: FGSM | None = None, on_examples: OnExamples | None = None) -> tuple[Figures, Tensor]:
        """Attack every test image with FGSM at the true label and with what else the protocol names.

        Args:
            first: an attack to be made besides.
            on_examples: told of every chunk.

        Returns:
            The figures, and the signs int8 [M, N, C, H, W] of the first attack, N being 0 without one.
        """
        white_box = self.protocol.true_label_attack
        counted = [white_box, *self.protocol.stronger_attacks]
        made = dict.fromkeys([first, *counted] if first else counted)
        counters = {attack: Counter(self.networks) for attack in made}
        curve = {e: Counter(self.networks) for e in self.protocol.epsilons if e != self.protocol.epsilon}
        clean, survivors = Counter(self.networks), Survivors(self.networks)
        signs = self._empty_signs("test", wanted=first is not None)
        for chunk, images, labels in self.chunks("test"):
            alive = []
            for attack, counter, attacked in self._attack(counters, "test", chunk, images, labels):
                logits = attacked.logits_of(self.networks)
                correct, change = counter.add_attacked(attacked, logits, labels)
                if attack in counted:
                    alive.append(self._survived(attack, correct, change))
                if attack == next(iter(counters)) and isinstance(attacked, Signed):
                    clean.add(attacked.clean_logits, labels)
                    if first is not None:
                        signs[:, chunk] = attacked.signs
                if attack == white_box and isinstance(attacked, Signed):
                    self._count_curve(curve, attacked, labels)
                    if on_examples is not None:
                        on_examples(attacked, logits, chunk)
            survivors.add(alive)
        worst = survivors.score([counters[attack] for attack in counted])
        scores = {attack: counter.score() for attack, counter in counters.items()}
        return Figures(clean.score(), scores, {e: counter.score() for e, counter in curve.items()}, worst), signs

    def _survived(self, attack: Attack, correct: Tensor, change: Tensor) -> Tensor:
        """bool [M, B]: which images an attack did not turn with a change of at most the protocol's epsilon."""
        within = attack.bounded and attack.norm == "linf" and attack.strength <= self.protocol.epsilon
        return correct if within else correct | (change > self.protocol.epsilon)

    def chunks(self, split: str, most: int | None = None, first: int = 0) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Numbers, pixels and labels of a split's images, a forward pass at a time; from `first` to before `most`."""
        part: Split = getattr(self.data, split)
        count = min(len(part.labels), most or len(part.labels))
        for start in range(first, count, self.evaluation_batch):
            self.pause()
            chunk = slice(start, min(start + self.evaluation_batch, count))
            yield chunk, pixels(part.images[chunk], self.networks.dtype), part.labels[chunk]

    def _attack(
        self, counters: dict[Attack, Counter], split: str, chunk: slice, images: Tensor, labels: Tensor
    ) -> Iterator[tuple[Attack, Counter, Attacked]]:
        """Make attack after attack on one chunk; the first one's clean logits serve all."""
        clean_logits = None
        for attack, counter in counters.items():
            attacked = self.attack(attack, split, chunk, images, labels, clean_logits)
            clean_logits = attacked.clean_logits
            yield attack, counter, attacked

    def attack(
        self,
        attack: Attack,
        split: str,
        chunk: slice,
        images: Tensor,
        labels: Tensor,
        clean_logits: Tensor | None = None,
    ) -> Attacked:
        """Attack one chunk of a split, as `chunks` gives it, with the random starts and targets of its images.

        Args:
            attack: with a definite epsilon.
            split, chunk, images, labels: numbers, pixels [B, C, H, W] and labels [B] of the images.
            clean_logits: [M, B, Y] of the images, where they are known already.
        """
        draw = starts(self.networks, images, attack.name, split, chunk.start)
        start = Start(clean_logits, draw, self._targets(attack, split, chunk))
        return attack(self.networks, images, labels, start=start)

    def _count_curve(self, curve: dict[float, Counter], attacked: Signed, labels: Tensor) -> None:
        """Evaluate other epsilons of an attack on one chunk, from the signs that it has."""
        for epsilon, counter in curve.items():
            adversarial = attacked.moved_by(epsilon)
            moved = replace(attacked, clipped=adversarial, epsilon=epsilon)
            logits = self.networks.logits(adversarial) if epsilon else attacked.clean_logits
            counter.add_attacked(moved, logits, labels)

    def _targets(self, attack: Attack, split: str, chunk: slice) -> Tensor | None:
        if attack.target != "random":
            return None
        labels = getattr(self.data, split).labels
        own = [random_targets(seed, split, labels, self.data.classes) for seed in self.seeds]
        return torch.stack(own)[self.seed_of][:, chunk]

    def _empty_signs(self, split: str, wanted: bool = True) -> Tensor:
        images = getattr(self.data, split).images
        shape = (len(self.networks.members), len(images) if wanted else 0, *images.shape[1:])
        return torch.empty(shape, dtype=torch.int8, device=images.device)
