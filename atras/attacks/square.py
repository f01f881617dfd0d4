"""Square attack: random search with squares of pixels, which asks for logits and never for a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from atras.checks import number, truth, whole

from .attack import Passes
from .pair_attack import Found, PairAttack
from .per_pair import PerPair

if TYPE_CHECKING:
    from torch import Tensor

    from .pairs import Pairs

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, past 0, after which the share of pixels is halved once more."""

SCHEDULE = 10_000
"""Number of queries that those are given for; `rescale` stretches them to another one."""

DRAWN = 256
"""Queries whose random numbers are drawn at once."""


@dataclass(frozen=True, repr=False)
class Square(PairAttack):
    """Random search: squares of pixels are changed where that brings the label's logit nearer to another one.

    Args:
        norm: `linf` or `l2`.
        queries: forward passes, at least 1, that of the starting point included.
        p: share of the pixels that the first squares cover, in (0, 1].
        restarts: random searches, at least 1.
        rescale: whether squares shrink over `queries` as they do over 10,000.

    Source: Andriushchenko, Croce, Flammarion, Hein 2020, "Square attack", algorithms 1 to 3 and section 5 (halvings).
    """

    queries: int = 5000
    p: float = 0.8
    restarts: int = 1
    rescale: bool = False

    name = "square"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    uses_gradients = False

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("queries", self.queries, 1, 10**7)
        whole("restarts", self.restarts, 1, 10**6)
        number("p", self.p, 0.0, 1.0)
        object.__setattr__(self, "p", float(self.p))
        truth("rescale", self.rescale)

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (alike for any number of classes)
        return Passes(1 + self.restarts * self.queries)

    def attack_pairs(self, pairs: Pairs, clean: Tensor, clean_logits: Tensor) -> Found:  # noqa: ARG002 (of the base)
        import torch

        images = clean.clone()
        fooled = torch.zeros(len(pairs), dtype=torch.bool, device=clean.device)
        for restart in range(self.restarts):
            left = ~fooled
            if not left.any():
                break
            images[left], fooled[left] = self._search(pairs.only(left), clean[left], restart)
        return Found(images, fooled)

    def share(self, query: int) -> float:
        """Share of the pixels that a square covers, after so many before it."""
        at = query * SCHEDULE // self.queries if self.rescale else query
        return self.p / 2 ** sum(at > each for each in HALVINGS)

    def _search(self, pairs: Pairs, clean: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """Images [P, C, H, W] of the smallest margin, and whether they fool, of one search."""
        import torch

        from .objectives import margin
        from .square_proposals import PROPOSALS

        make = PROPOSALS[self.norm](self.strength, self.bounds, clean.shape[1:])
        first = restart * (2 + self.queries // DRAWN)  # the restart's first draw
        x = make.start(pairs.drawn(first, make.start_shape), clean)
        place = torch.arange(len(pairs), device=clean.device)
        images, fooled = x.clone(), torch.zeros(len(pairs), dtype=torch.bool, device=clean.device)
        state = _State(place, clean, x, margin(pairs.logits(x), pairs.labels))
        for query in range(self.queries):
            reached = state.value > 0
            if reached.any():
                images[state.place[reached]], fooled[state.place[reached]] = state.best[reached], True
                pairs, state = pairs.only(~reached), state.only(~reached)
            if not len(pairs) or query == self.queries - 1:
                break
            if query % DRAWN == 0:
                numbers = pairs.draw(first + 1 + query // DRAWN, (DRAWN, make.numbers))
            tried = make.propose(pairs.of_drawn(numbers)[:, query % DRAWN], state.clean, state.best, self.share(query))
            value = margin(pairs.logits(tried), pairs.labels)
            better = value > state.value
            state.best = torch.where(better[:, None, None, None], tried, state.best)
            state.value = torch.where(better, value, state.value)
        images[state.place] = state.best
        return images, fooled


@dataclass
class _State(PerPair):
    """The state of the search, of each pair."""

    place: Tensor
    """int64, among the pairs that it began with."""
    clean: Tensor
    best: Tensor
    value: Tensor
    """Highest other logit less the label's at the best image."""
