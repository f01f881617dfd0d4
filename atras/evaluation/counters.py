"""Counting over an evaluation: correct predictions, and what an attack did to the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atras.attacks import Attacked
from atras.networks import Classifier


class Score(NamedTuple):
    """The result of one evaluation of M members.

    Args:
        class_correct: int64 [M, Y] on the CPU, correct predictions of each member among the images of each class.
        class_n: int64 [Y] on the CPU, images of each class.
        one_class: whether a member gave all images the same class.
        finite: bool [M], whether all logits of a member were finite.
        zero_gradient_fraction, nan_gradients: share of zero and number of NaN gradients of pixels; None where none was
            counted.
        mean_linf, mean_l2: mean change of an image, in pixels of [0, 1]; None without an attack.
    """

    class_correct: Tensor
    class_n: Tensor
    one_class: list[bool]
    finite: Tensor
    zero_gradient_fraction: list[float] | None = None
    nan_gradients: list[int] | None = None
    mean_linf: list[float] | None = None
    mean_l2: list[float] | None = None

    @property
    def correct(self) -> list[int]:
        """Correct predictions of each member."""
        counts: list[int] = self.class_correct.sum(1).tolist()
        return counts

    @property
    def n(self) -> int:
        """Number of images."""
        return int(self.class_n.sum())

    @property
    def balanced(self) -> list[float]:
        """Each member's mean, over the classes that have images, of the share of them that it gets right."""
        there = self.class_n > 0
        means: list[float] = (self.class_correct[:, there].double() / self.class_n[there]).mean(1).tolist()
        return means

    @property
    def majority_share(self) -> float:
        """Share of the images that are of the most frequent class."""
        return int(self.class_n.max()) / self.n

    def joined(self, other: Score) -> Score:
        """The score of both sets of images together, as far as it counts correct predictions."""
        correct, n = self.class_correct + other.class_correct, self.class_n + other.class_n
        return Score(correct, n, self.one_class, self.finite & other.finite)


class ClassCounts:
    """Correct predictions by class, on the device."""

    def __init__(self, networks: Classifier) -> None:
        shape = (len(networks.members), networks.classes)
        self.correct = torch.zeros(shape, dtype=torch.int64, device=networks.device)
        self.n = torch.zeros(shape[1], dtype=torch.int64, device=networks.device)

    def add(self, hits: Tensor, labels: Tensor) -> None:
        """Count one chunk: bool [M, B], which predictions are correct, of images with labels [B]."""
        self.correct.index_add_(1, labels, hits.to(torch.int64))
        self.n += torch.bincount(labels, minlength=len(self.n))


class Counter:
    """Counts over the chunks of an evaluation, on the device until the end."""

    def __init__(self, networks: Classifier) -> None:
        m, device = len(networks.members), networks.device
        self.pixels = 0
        self.finite = torch.ones(m, dtype=torch.bool, device=device)
        self.counts = ClassCounts(networks)
        self.predicted = torch.zeros(m, networks.classes, dtype=torch.int64, device=device)
        self.linf, self.l2 = torch.zeros(2, m, dtype=torch.float64, device=device)
        self.zero, self.nan = torch.zeros(2, m, dtype=torch.int64, device=device)
        self.gradients = 0
        self.attacked = False

    def add(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count one chunk's logits [M, B, Y] against labels [B]; bool [M, B], which are correct.

        Logits that are not finite mark their member as diverged.
        """
        self.finite &= logits.isfinite().flatten(1).all(1)
        predictions = logits.argmax(-1)
        hits = predictions == labels
        self.counts.add(hits, labels)
        self.predicted.scatter_add_(1, predictions, torch.ones_like(predictions))
        return hits

    def add_change(self, images: Tensor, adversarial: Tensor) -> Tensor:
        """Measure what became of the clean images; [M, B], the largest change of a pixel."""
        self.attacked = True
        change = (adversarial - images).flatten(2)
        linf = change.abs().amax(2)
        self.linf += linf.sum(1, dtype=torch.float64)
        self.l2 += torch.linalg.vector_norm(change, dim=2).sum(1, dtype=torch.float64)
        return linf

    def add_attacked(self, attacked: Attacked, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Count one chunk of a fresh attack, whose examples have these logits; what `add` and `add_change` return."""
        self.gradients += attacked.gradients * attacked.images.shape[-4]
        self.pixels = math.prod(attacked.images.shape[-3:])
        self.zero += attacked.zero_gradients
        self.nan += attacked.nan_gradients
        return self.add(logits, labels), self.add_change(attacked.images, attacked.clipped)

    def score(self) -> Score:
        taken, n = self.gradients * self.pixels, int(self.counts.n.sum())
        return Score(
            class_correct=self.counts.correct.cpu(),
            class_n=self.counts.n.cpu(),
            one_class=(self.predicted.amax(1) == n).tolist(),
            finite=self.finite,
            zero_gradient_fraction=(self.zero / taken).tolist() if taken else None,
            nan_gradients=self.nan.tolist() if taken else None,
            mean_linf=(self.linf / n).tolist() if self.attacked else None,
            mean_l2=(self.l2 / n).tolist() if self.attacked else None,
        )


class Survivors:
    """Count of the images that no attack turned: the worst case over attacks, image by image."""

    def __init__(self, networks: Classifier) -> None:
        self.counts = ClassCounts(networks)

    def add(self, survived: Sequence[Tensor], labels: Tensor) -> None:
        """Count one chunk with labels [B]: bool [M, B] of each attack, which images it did not turn."""
        self.counts.add(torch.stack(list(survived)).all(0), labels)

    def score(self, counters: Sequence[Counter]) -> Score:
        """The worst case over the attacks of these counters."""
        finite = torch.stack([counter.finite for counter in counters]).all(0)
        correct = self.counts.correct.cpu()
        return Score(correct, self.counts.n.cpu(), [False] * len(correct), finite)
