"""Counting over an evaluation: correct predictions, and what an attack did to the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from atras.attacks import Attacked
from atras.networks import Classifier, log_odds

from .outcomes import Outcomes

SATURATED = -25 * math.log(2)
"""Log-odds against a class below which float32 rounds its probability to 1."""


class Score(NamedTuple):
    """The result of one evaluation of M members.

    Args:
        class_correct: int64 [M, Y] on the CPU, correct predictions of each member among the images of each class.
        class_n: int64 [Y] on the CPU, images of each class.
        one_class: whether a member gave all images the same class.
        finite: bool [M] on the CPU, whether all logits of a member were finite.
        zero_gradient_fraction, nan_gradients: share of zero and number of NaN gradients of pixels; None where none was
            counted.
        zero_gradient_images: number of images without any gradient; None likewise.
        unfinished_images: number of images that an attack by lists of pairs left in the midst of a rise; None likewise.
        blindly_turned_images: number of images that only a part without gradients turned; None likewise.
        saturated_images: number of clean images whose label has a probability that float32 rounds to 1; None likewise.
        attacked: images that a fresh attack changed and that the network classifies correctly as they are; None without
            one. An image that is misclassified already leaves an attack nothing to do, and its distance of 0 would make
            a poor network look easier to fool.
        mean_linf, median_linf, mean_l2, median_l2: change of those images, in pixels of [0, 1]; None for a member that
            has none of them.
        outcomes: of every image, where they are kept.
        parts: names of the attack's parts; none for an attack without.
    """

    class_correct: Tensor
    class_n: Tensor
    one_class: list[bool]
    finite: Tensor
    zero_gradient_fraction: list[float] | None = None
    nan_gradients: list[int] | None = None
    zero_gradient_images: list[int] | None = None
    unfinished_images: list[int] | None = None
    blindly_turned_images: list[int] | None = None
    saturated_images: list[int] | None = None
    attacked: list[int] | None = None
    mean_linf: list[float | None] | None = None
    median_linf: list[float | None] | None = None
    mean_l2: list[float | None] | None = None
    median_l2: list[float | None] | None = None
    outcomes: Outcomes | None = None
    parts: tuple[str, ...] = ()

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

    def of(self, places: Sequence[int]) -> Score:
        """The score of the members in these places, as far as it counts correct predictions."""
        own = list(places)
        return Score(self.class_correct[own], self.class_n, [self.one_class[one] for one in own], self.finite[own])

    def joined(self, other: Score) -> Score:
        """The score of both sets of images together, as far as it counts correct predictions."""
        correct, n = self.class_correct + other.class_correct, self.class_n + other.class_n
        return Score(correct, n, self.one_class, self.finite & other.finite)


def by_places(parts: Sequence[tuple[Sequence[int], Score]]) -> Score:
    """The score of all members, as far as it counts correct predictions, from those of some in their places each."""
    places = torch.tensor([place for own, _ in parts for place in own])
    order = places.argsort()
    finite, correct = (torch.cat([getattr(score, name) for _, score in parts]) for name in ("finite", "class_correct"))
    one_class = [one for _, score in parts for one in score.one_class]
    own = correct[order], parts[0][1].class_n, [one_class[place] for place in order.tolist()]
    return Score(*own, finite[order])


def on_host(*tensors: Tensor) -> list[Tensor]:
    """Copies on the CPU of whole numbers or booleans, read in one piece: each reading waits for all of a GPU's work."""
    together = torch.cat([values.flatten().to(torch.int64) for values in tensors]).cpu()
    ends = accumulate(values.numel() for values in tensors)
    parts = ((together[end - values.numel() : end], values) for end, values in zip(ends, tensors, strict=True))
    return [part.view(values.shape).to(values.dtype) for part, values in parts]


class ClassCounts:
    """Correct predictions by class, on the device."""

    def __init__(self, networks: Classifier) -> None:
        shape = (len(networks.members), networks.classes)
        self.correct = torch.zeros(shape, dtype=torch.int64, device=networks.device)
        self.n = torch.zeros(shape[1], dtype=torch.int64, device=networks.device)

    def add(self, hits: Tensor, labels: Tensor) -> None:
        """Count one chunk: bool [M, B], which predictions are correct, of images with labels [B]."""
        self.correct.index_add_(1, labels, hits.to(torch.int64))
        self.n.index_add_(0, labels, torch.ones_like(labels))  # `bincount` would have a GPU waited for


class Counter:
    """Counts over the chunks of an evaluation, on the device until the end.

    Args:
        networks: the members.
        outcomes: whether to keep what becomes of every image, which is given to `outcomes`.
    """

    def __init__(self, networks: Classifier, outcomes: bool = False) -> None:
        m, device = len(networks.members), networks.device
        self.pixels = 0
        self.finite = torch.ones(m, dtype=torch.bool, device=device)
        self.counts = ClassCounts(networks)
        self.predicted = torch.zeros(m, networks.classes, dtype=torch.int64, device=device)
        self.distances = Distances()
        self.zero, self.nan, self.nowhere, self.unfinished, self.blindly, self.saturated = torch.zeros(
            6, m, dtype=torch.int64, device=device
        )
        self.gradients = 0
        self.follows_gradients = self.can_be_unfinished = self.has_blind_parts = False
        self.outcomes = Outcomes() if outcomes else None

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

    def add_attacked(
        self, attacked: Attacked, logits: Tensor, labels: Tensor, norm: str = "linf"
    ) -> tuple[Tensor, Tensor]:
        """Count one chunk of a fresh attack in a norm, whose examples have these logits.

        Returns:
            [M, B]: which predictions are correct, and the largest change of a pixel.
        """
        self.gradients += attacked.gradients * attacked.images.shape[-4]
        self.pixels = math.prod(attacked.images.shape[-3:])
        self.zero += attacked.zero_gradients
        self.nan += attacked.nan_gradients
        if attacked.no_gradient is not None:
            self.follows_gradients = True
            self.nowhere += attacked.no_gradient.sum(1)
        if attacked.unfinished is not None:
            self.can_be_unfinished = True
            self.unfinished += attacked.unfinished.sum(1)
        if attacked.blind_parts and attacked.part is not None:
            self.has_blind_parts = True
            for part in attacked.blind_parts:
                self.blindly += (attacked.part == part).sum(1)
        if attacked.clean_logits is not None:
            odds = log_odds(attacked.clean_logits, attacked.labels.expand(attacked.clean_logits.shape[:2]))
            self.saturated += (odds < SATURATED).sum(1)
        return self.add(logits, labels), self.distances.add(attacked, labels, norm)

    def score(self) -> Score:
        taken = self.gradients * self.pixels
        correct, n, predicted, finite, *rest = on_host(
            self.counts.correct, self.counts.n, self.predicted, self.finite,
            self.zero, self.nan, self.nowhere, self.unfinished, self.blindly, self.saturated,
        )  # fmt: skip
        zero, nan, nowhere, unfinished, blindly, saturated = rest
        return Score(
            class_correct=correct,
            class_n=n,
            one_class=(predicted.amax(1) == n.sum()).tolist(),
            finite=finite,
            zero_gradient_fraction=(zero / taken).tolist() if taken else None,
            nan_gradients=nan.tolist() if taken else None,
            zero_gradient_images=nowhere.tolist() if self.follows_gradients else None,
            unfinished_images=unfinished.tolist() if self.can_be_unfinished else None,
            blindly_turned_images=blindly.tolist() if self.has_blind_parts else None,
            saturated_images=saturated.tolist() if taken else None,
            outcomes=self.outcomes,
            **self.distances.summary(),
        )


class Distances:
    """The distances of adversarial images from the clean ones, by member: kept until the end, as a median needs all.

    `farthest` is the largest of all in the attack's own norm, on the device; None before the first.
    """

    def __init__(self) -> None:
        self.chunks: list[Tensor] = []
        self.farthest: Tensor | None = None

    def add(self, attacked: Attacked, labels: Tensor, norm: str) -> Tensor:
        """Keep those of the images that were attacked; [M, B], the largest change of a pixel of all images."""
        change = (attacked.clipped - attacked.images).flatten(2)
        linf, l2 = change.abs().amax(2), torch.linalg.vector_norm(change, dim=2)
        own = {"linf": linf, "l2": l2}[norm] if norm != "l1" else change.abs().sum(2)
        self.farthest = own.amax() if self.farthest is None else torch.maximum(self.farthest, own.amax())
        if attacked.clean_logits is not None:
            counts = (attacked.clean_logits.argmax(-1) == labels) & (linf > 0)
            self.chunks.append(torch.where(counts, torch.stack([linf, l2]), torch.nan))
        return linf

    def summary(self) -> dict[str, Any]:
        """`attacked`, means and medians, as in `Score`; nothing where nothing was kept."""
        if not self.chunks:
            return {}
        kept = torch.cat(self.chunks, dim=2).to("cpu", torch.float64).numpy()
        found: dict[str, Any] = {"attacked": (~np.isnan(kept[0])).sum(1).tolist()}
        for norm, members in zip(("linf", "l2"), kept, strict=True):
            # Member by member: a sum must not depend on who is beside it.
            own = [values[~np.isnan(values)] for values in members]
            found[f"mean_{norm}"] = [float(values.mean()) if len(values) else None for values in own]
            found[f"median_{norm}"] = [float(np.median(values)) if len(values) else None for values in own]
        return found


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
        correct, n, finite = on_host(self.counts.correct, self.counts.n, finite)
        return Score(correct, n, [False] * len(correct), finite)
