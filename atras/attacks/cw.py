"""Carlini and Wagner's attack in l2: Adam on the distance plus a constant times the margin, which is searched for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from atras.checks import number, whole
from atras.registry import UNSPELLED

from .attack import Passes, Progress
from .minimum_norm import MinimumNorm
from .per_pair import Found, PerPair
from .stages import stages

if TYPE_CHECKING:
    from torch import Tensor

    from .pairs import Pairs

GROWTH = 10.0
"""Of a constant that was too small, until one is large enough."""

USUAL = 0.6
"""Share of all steps that an image is taken to need, for a plan: its loss no longer falls after the others."""

MOST = 1e10
"""Highest constant."""

REPEATED = 10
"""Binary search steps from which on the last one repeats the smallest constant that was large enough."""


@dataclass(frozen=True, repr=False)
class CW(MinimumNorm):
    """The smallest change it can find in l2, as the minimum of the squared distance plus a constant times the margin.

    With label source `predicted` each image leaves the class that the model gives it; with `true`, images that are
    misclassified already stay as they are.

    Args:
        epsilon, target, norm: of no use to it: as by default, and without a spelling.
        confidence: margin by which another class's logit has to lead, at least 0.
        binary_search_steps: constants that are tried for each image, at least 1.
        steps: of Adam with each constant, at the most; an image whose loss no longer falls is done with it.
        learning_rate: of Adam.
        constant: the first one.

    Source: Carlini, Wagner 2017, "Towards evaluating the robustness of neural networks", sections V and VI.A; the
    authors' code for the constant and for when to stop, which takes 10,000 steps.
    """

    norm: str = field(default="l2", metadata=UNSPELLED)
    confidence: float = 0.0
    binary_search_steps: int = 9
    steps: int = 1000
    learning_rate: float = 0.01
    constant: float = 1e-3

    name = "cw"
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    kept_copies = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("binary_search_steps", "steps"):
            whole(option, getattr(self, option), 1, 10**6)
        for option, low, high in (("confidence", 0.0, 1e6), ("learning_rate", 0.0, 10.0), ("constant", 1e-12, 1e10)):
            number(option, getattr(self, option), low, high)
            object.__setattr__(self, option, float(getattr(self, option)))

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (alike for any number of classes)
        return Passes(1, USUAL * self.binary_search_steps * self.steps)

    def run(
        self,
        pairs: Pairs,
        clean: Tensor,
        clean_logits: Tensor,  # noqa: ARG002 (of the base)
        run: int,  # noqa: ARG002 (of the base)
        progress: Progress,
    ) -> Found:
        from .descent import Descent

        found, kept = Found.nothing(clean), progress.state
        constants = _Constants.loaded(kept) if "tried" in kept else _Constants.begun(clean, self.constant)
        for search, inner in stages(progress, self.binary_search_steps, constants.tensors):
            if search == self.binary_search_steps - 1 >= REPEATED - 1:
                constants.tried = constants.highest.clamp(max=MOST)
            descent = Descent(self, pairs, clean, constants.tried, found)
            constants.adapt(descent.finished(inner))
            found = descent.found
        return found


@dataclass
class _Constants(PerPair):
    """What is known of each pair's constant: the one to be tried, the highest too small one, the least large enough."""

    tried: Tensor
    lowest: Tensor
    highest: Tensor

    @classmethod
    def begun(cls, clean: Tensor, first: float) -> _Constants:
        return cls(*(clean.new_full((len(clean),), value) for value in (first, 0.0, math.inf)))

    def adapt(self, fooled: Tensor) -> None:
        """Choose the next ones: between what is known, or larger while none was large enough."""
        import torch

        self.highest = torch.where(fooled, self.highest.minimum(self.tried), self.highest)
        self.lowest = torch.where(fooled, self.lowest, self.lowest.maximum(self.tried))
        between = (self.lowest + self.highest) / 2
        self.tried = torch.where(self.highest.isfinite(), between, (GROWTH * self.tried).clamp(max=MOST))
