"""Counting over an evaluation: correct predictions, and what an attack did to the pictures."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .engine import Engine


class Score(NamedTuple):
    """One evaluation of M members: correct predictions, pictures counted, and the attack's side of it."""

    correct: list[int]
    n: int
    one_class: list[bool]
    zero_gradient_fraction: list[float] | None = None
    nan_gradients: list[int] | None = None
    mean_linf: list[float] | None = None
    mean_l2: list[float] | None = None


class Tally:
    """Counts over the chunks of an evaluation, on the device until the end."""

    def __init__(self, engine: Engine, finite: Tensor) -> None:
        self.engine, self.finite = engine, finite
        m, device = len(engine.members), engine.device
        self.correct = torch.zeros(m, dtype=torch.int64, device=device)
        self.predicted = torch.zeros(m, engine.spec.classes, dtype=torch.int64, device=device)
        self.linf, self.l2 = torch.zeros(2, m, dtype=torch.float64, device=device)
        self.zero, self.nan = torch.zeros_like(self.correct), torch.zeros_like(self.correct)
        self.n = 0
        self.attacked = self.with_gradients = False

    def add(self, images: Tensor, adversarial: Tensor | None, labels: Tensor) -> None:
        """Predict one chunk; non-finite logits mark their member as diverged."""
        logits = self.engine.logits(images if adversarial is None else adversarial)
        self.finite &= logits.isfinite().flatten(1).all(1)
        predictions = logits.argmax(-1)
        self.correct += (predictions == labels).sum(1)
        self.predicted.scatter_add_(1, predictions, torch.ones_like(predictions))
        self.n += len(labels)
        if adversarial is not None:
            self.attacked = True
            change = (adversarial - images).flatten(2)
            self.linf += change.abs().amax(2).sum(1, dtype=torch.float64)
            self.l2 += torch.linalg.vector_norm(change, dim=2).sum(1, dtype=torch.float64)

    def add_gradients(self, zero: Tensor, nan: Tensor) -> None:
        """Count the pixels [M] whose gradient was zero or NaN in a fresh attack."""
        self.with_gradients = True
        self.zero += zero
        self.nan += nan

    def score(self) -> Score:
        pixels_seen = self.n * math.prod(self.engine.spec.image_shape)
        return Score(
            correct=self.correct.tolist(),
            n=self.n,
            one_class=(self.predicted.amax(1) == self.n).tolist(),
            zero_gradient_fraction=(self.zero / pixels_seen).tolist() if self.with_gradients else None,
            nan_gradients=self.nan.tolist() if self.with_gradients else None,
            mean_linf=(self.linf / self.n).tolist() if self.attacked else None,
            mean_l2=(self.l2 / self.n).tolist() if self.attacked else None,
        )
