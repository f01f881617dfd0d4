"""Square attack: random search with squares of pixels, which asks for logits and never for a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from atras.checks import number, truth, whole

from .attack import Passes, Progress
from .pair_attack import PairAttack
from .per_pair import Found, PerPair, kept_of

if TYPE_CHECKING:
    from torch import Tensor

    from .pairs import Pairs
    from .square_proposals import Proposals

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

    def runs(self, classes: int) -> int:  # noqa: ARG002 (alike for any number of classes)
        return self.restarts

    def share(self, query: int) -> float:
        """Share of the pixels that a square covers, after so many before it."""
        at = query * SCHEDULE // self.queries if self.rescale else query
        return self.p / 2 ** sum(at > each for each in HALVINGS)

    def run(
        self,
        pairs: Pairs,
        clean: Tensor,
        clean_logits: Tensor,  # noqa: ARG002 (of the base)
        run: int,
        progress: Progress,
    ) -> Found:
        from .square_proposals import PROPOSALS

        make = PROPOSALS[self.norm](self.strength, self.bounds, clean.shape[1:])
        pairs = pairs.drawing_from(run * (2 + self.queries // DRAWN))
        found, state, done, numbers = *self._begun(pairs, clean, make, progress.state), None
        pairs = pairs.only(state.place)
        for query in range(done, self.queries):
            reached = state.value > 0
            if reached.any():
                found.put(state.place[reached], state.best[reached], state.value[reached])
                pairs, state = pairs.only(~reached), state.only(~reached)
            if not len(pairs) or query == self.queries - 1:
                break
            if numbers is None or query % DRAWN == 0:
                numbers = pairs.draw(1 + query // DRAWN, (DRAWN, make.numbers))
            drawn = pairs.of_drawn(numbers[..., query % DRAWN, :], axes=1)
            state.keep_better(pairs, make.propose(drawn, state.clean, state.best, self.share(query)))
            progress.step(partial(kept_of, found, state, query + 1))
        found.put(state.place, state.best, state.value, fooled=False)
        return found

    def _begun(
        self, pairs: Pairs, clean: Tensor, make: Proposals, kept: Mapping[str, Tensor]
    ) -> tuple[Found, _State, int]:
        """What is found, the state and the number of queries that are done, where a run begins or goes on."""
        import torch

        from atras.kernels import margin

        if kept:
            return Found.loaded(kept), _State.loaded(kept, clean=clean[kept["place"]]), int(kept["done"])
        x = make.start(pairs.drawn(0, make.start_shape), clean)
        place = torch.arange(len(pairs), device=clean.device)
        return Found.nothing(clean), _State(place, clean, x, margin(pairs.logits(x), pairs.labels)), 0


@dataclass
class _State(PerPair):
    """The state of the search, of each pair."""

    recomputed: ClassVar[tuple[str, ...]] = ("clean",)

    place: Tensor
    """int64, among the pairs that it began with."""
    clean: Tensor
    best: Tensor
    value: Tensor
    """Highest other logit less the label's at the best image."""

    def keep_better(self, pairs: Pairs, tried: Tensor) -> None:
        """Keep of each pair the better one of its best image and another."""
        import torch

        from atras.kernels import margin

        value = margin(pairs.logits(tried), pairs.labels)
        better = value > self.value
        self.best = torch.where(better[:, None, None, None], tried, self.best)
        self.value = torch.where(better, value, self.value)
