"""Fast minimum-norm attack: steps inside a ball that shrinks where they fool and grows where they do not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from atras.checks import number, whole

from .attack import Passes, Progress
from .minimum_norm import MinimumNorm, lead
from .per_pair import Found, PerPair, kept_of

if TYPE_CHECKING:
    from torch import Tensor

    from .pairs import Pairs

LEAST_STEP = 0.01
"""Share of the first step size that the last one has."""

LEAST_GAMMA = 0.001
"""Share by which the radius is changed at the end."""

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


@dataclass(frozen=True, repr=False)
class FMN(MinimumNorm):
    """The smallest change it can find, by steps along the gradient in a ball whose radius follows from their success.

    With label source `predicted` each image leaves the class that the model gives it; with `true`, images that are
    misclassified already stay as they are.

    Args:
        epsilon, target: of no use to it: dropped, and refused; they have no spelling.
        norm: `linf`, `l2` or `l1`, in which the change is small.
        steps: at least 1.
        step_size: length of the first step, in l2; it falls to a hundredth along a cosine.
        gamma: share by which the radius shrinks or grows at first, in [0, 1]; it falls to 0.001 likewise.

    A pixel at a bound whose gradient leads beyond it counts as if it had none. In the paper it has one, and where many
    pixels are black or white steps in `l2` end before the boundary: each projection takes back what the others moved.
    And the radius leads a little beyond where the boundary is estimated, as steps would end on it in a linear network.

    Source: Pintor, Roli, Brendel, Biggio 2021, "Fast minimum-norm adversarial attacks through adaptive norm
    constraints", algorithm 1.
    """

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05

    name = "fmn"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    kept_copies = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("steps", self.steps, 1, 10**6)
        for option, high in (("step_size", 1e3), ("gamma", 1.0)):
            number(option, getattr(self, option), 0.0, high)
            object.__setattr__(self, option, float(getattr(self, option)))

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (alike for any number of classes)
        return Passes(1, self.steps)

    def run(
        self,
        pairs: Pairs,
        clean: Tensor,
        clean_logits: Tensor,  # noqa: ARG002 (of the base)
        run: int,  # noqa: ARG002 (of the base)
        progress: Progress,
    ) -> Found:
        found, state, done = Found.nothing(clean), _State.begun(clean, self), 0
        if kept := progress.state:
            found, done = Found.loaded(kept), int(kept["done"])
            state = _State.loaded(kept, clean=clean[kept["place"]])
            pairs = pairs.only(state.place)
        for step in range(done, self.steps):
            if not len(pairs):
                break
            moving = self._move(pairs, state, found, (1 + math.cos(math.pi * step / self.steps)) / 2)
            if not moving.all():
                pairs, state = pairs.only(moving), state.only(moving)
            progress.step(partial(kept_of, found, state, step + 1))
        return found

    def _move(self, pairs: Pairs, s: _State, found: Found, share: float) -> Tensor:
        """Keep what fools, adapt the radii and take a step; bool [P], the pairs that it may get further with."""
        import torch

        from atras.networks import Objective

        from .norms import near_one, norm_of, projected, scaled

        margin = Objective("margin", pairs.labels)
        outward, logits = pairs.gradient(s.x, margin)
        low, high = self.bounds
        gradient = torch.where(outward > 0, s.x < high, s.x > low) * torch.nan_to_num(outward, nan=0.0)
        fooling, size = logits.argmax(-1) != pairs.labels, norm_of(s.x - s.clean, self.norm)
        s.crossed = s.crossed | fooling
        closer = (lead(logits, pairs.labels) > 0) & (size < -found.values[s.place])
        found.put(s.place[closer], s.x[closer], -size[closer])
        gamma = LEAST_GAMMA + (self.gamma - LEAST_GAMMA) * share
        slope = norm_of(gradient, DUAL[self.norm]).clamp(min=torch.finfo(gradient.dtype).tiny)
        to_boundary = margin.values(logits).abs() / slope
        outside = torch.where(s.crossed, s.radius, size + to_boundary) * (1 + gamma)
        inside = (s.radius * (1 - gamma)).minimum(-found.values[s.place])
        s.radius = torch.where(fooling, inside, outside).minimum(s.farthest)
        length = self.step_size * (LEAST_STEP + (1 - LEAST_STEP) * share)
        along = scaled(near_one(gradient), length, "l2")
        s.x = projected(s.x + along, s.clean, s.radius, self.norm, self.bounds)
        # Without a gradient a pair that does not fool would stay where it is.
        return (fooling | (gradient != 0).flatten(1).any(1)) & logits.isfinite().all(1)


@dataclass
class _State(PerPair):
    """The state of the search, of each pair."""

    recomputed: ClassVar[tuple[str, ...]] = ("clean",)

    place: Tensor
    """int64, among the pairs that it began with."""
    clean: Tensor
    x: Tensor
    radius: Tensor
    farthest: Tensor
    """Norm of the largest change within the bounds."""
    crossed: Tensor
    """bool, whether any point was misclassified."""

    @classmethod
    def begun(cls, clean: Tensor, attack: FMN) -> _State:
        import torch

        from .norms import norm_of

        low, high = attack.bounds
        farthest = norm_of(torch.maximum(clean - low, high - clean), attack.norm)
        place = torch.arange(len(clean), device=clean.device)
        crossed = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        return cls(place, clean, clean, torch.full_like(farthest, torch.inf), farthest, crossed)
