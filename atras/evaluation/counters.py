"""Counting over an evaluation: correct predictions, and what an attack did to the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atras.attacks import Attacked
from atras.networks import Classifier, log_odds

SATURATED = -25 * math.log(2)
"""Log-odds against a class below which float32 rounds its probability to 1."""


class Score(NamedTuple):
    """The result of one evaluation of M members.

    Args:
        correct: correct predictions of each member.
        n: number of images.
        one_class: whether a member gave all images the same class.
        finite: bool [M], whether all logits of a member were finite.
        zero_gradient_fraction, nan_gradients: share of zero and number of NaN gradients of pixels; None where none was
            counted.
        zero_gradient_images: number of images without any gradient; None likewise.
        saturated_images: number of clean images whose label has a probability that float32 rounds to 1; None likewise.
        mean_linf, mean_l2: mean change of an image, in pixels of [0, 1]; None without an attack.
    """

    correct: list[int]
    n: int
    one_class: list[bool]
    finite: Tensor
    zero_gradient_fraction: list[float] | None = None
    nan_gradients: list[int] | None = None
    zero_gradient_images: list[int] | None = None
    saturated_images: list[int] | None = None
    mean_linf: list[float] | None = None
    mean_l2: list[float] | None = None

    def joined(self, other: Score) -> Score:
        """The score of both sets of images together, as far as it counts correct predictions."""
        correct = [a + b for a, b in zip(self.correct, other.correct, strict=True)]
        return Score(correct, self.n + other.n, self.one_class, self.finite & other.finite)


class Counter:
    """Counts over the chunks of an evaluation, on the device until the end."""

    def __init__(self, networks: Classifier) -> None:
        m, device = len(networks.members), networks.device
        self.pixels = 0
        self.finite = torch.ones(m, dtype=torch.bool, device=device)
        self.correct = torch.zeros(m, dtype=torch.int64, device=device)
        self.predicted = torch.zeros(m, networks.classes, dtype=torch.int64, device=device)
        self.linf, self.l2 = torch.zeros(2, m, dtype=torch.float64, device=device)
        self.zero, self.nan, self.nowhere, self.saturated = torch.zeros(4, m, dtype=torch.int64, device=device)
        self.n = self.gradients = 0
        self.attacked = False

    def add(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count one chunk's logits [M, B, Y] against labels [B]; bool [M, B], which are correct.

        Logits that are not finite mark their member as diverged.
        """
        self.finite &= logits.isfinite().flatten(1).all(1)
        predictions = logits.argmax(-1)
        hits = predictions == labels
        self.correct += hits.sum(1)
        self.predicted.scatter_add_(1, predictions, torch.ones_like(predictions))
        self.n += len(labels)
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
        if attacked.no_gradient is not None:
            self.nowhere += attacked.no_gradient.sum(1)
        if attacked.clean_logits is not None:
            odds = log_odds(attacked.clean_logits, attacked.labels.expand(attacked.clean_logits.shape[:2]))
            self.saturated += (odds < SATURATED).sum(1)
        return self.add(logits, labels), self.add_change(attacked.images, attacked.clipped)

    def score(self) -> Score:
        taken = self.gradients * self.pixels
        return Score(
            correct=self.correct.tolist(),
            n=self.n,
            one_class=(self.predicted.amax(1) == self.n).tolist(),
            finite=self.finite,
            zero_gradient_fraction=(self.zero / taken).tolist() if taken else None,
            nan_gradients=self.nan.tolist() if taken else None,
            zero_gradient_images=self.nowhere.tolist() if taken else None,
            saturated_images=self.saturated.tolist() if taken else None,
            mean_linf=(self.linf / self.n).tolist() if self.attacked else None,
            mean_l2=(self.l2 / self.n).tolist() if self.attacked else None,
        )


class Survivors:
    """Count of the images that no attack turned: the worst case over attacks, image by image."""

    def __init__(self, networks: Classifier) -> None:
        self.correct = torch.zeros(len(networks.members), dtype=torch.int64, device=networks.device)
        self.n = 0

    def add(self, survived: Sequence[Tensor]) -> None:
        """Count one chunk: bool [M, B] of each attack, which images it did not turn."""
        self.correct += torch.stack(list(survived)).all(0).sum(1)
        self.n += survived[0].shape[1]

    def score(self, counters: Sequence[Counter]) -> Score:
        """The worst case over the attacks of these counters."""
        finite = torch.stack([counter.finite for counter in counters]).all(0)
        return Score(self.correct.tolist(), self.n, [False] * len(self.correct), finite)
