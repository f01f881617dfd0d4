"""Square attack: random search with squares of pixels, which asks for logits and never for a gradient."""

from __future__ import annotations

from bisect import bisect_left
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

LOOK, DROP = 4, 32
"""Queries from one look at what fools to the next on a GPU, which has to be waited for then, and on all devices to one
that drops it however little it is. Until then a pair that fools is in the list, and nothing comes of it."""


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
        return self.p / 2 ** bisect_left(HALVINGS, at)

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
        for query in range(done, self.queries - 1):
            looks = query % LOOK == 0 or not clean.is_cuda
            if looks and (left := state.left(seldom=query % DROP == 0)) is not None:
                state.put(found)
                pairs, state = pairs.only(left), state.only(left)
            if not len(pairs):
                break
            if numbers is None or query % DRAWN == 0:
                numbers = pairs.draw(1 + query // DRAWN, (DRAWN, make.numbers))
                numbers = numbers.movedim(-2, 0).contiguous()  # a query's own lie together
            drawn = pairs.of_drawn(numbers[query % DRAWN], axes=1)
            state.ask(pairs, make, drawn, make.side(self.share(query)))
            progress.step(partial(kept_of, found, state, query + 1))
        state.put(found)
        return found

    def _begun(
        self, pairs: Pairs, clean: Tensor, make: Proposals, kept: Mapping[str, Tensor]
    ) -> tuple[Found, _State, int]:
        """What is found, the state and the number of queries that are done, where a run begins or goes on."""
        import torch

        from atras.kernels import margin

        if kept:
            state = _State.loaded(kept, clean=clean[kept["place"]], tried=kept["best"].clone())
            return Found.loaded(kept), state, int(kept["done"])
        x = make.start(pairs.drawn(0, make.start_shape), clean).contiguous()
        place = torch.arange(len(pairs), device=clean.device)
        spent = (x.double() - clean.double()).square().sum((1, 2, 3))
        value = margin(pairs.logits(x).to(x), pairs.labels)
        value = value.masked_fill(value.isnan(), -torch.inf)  # any number is better
        return Found.nothing(clean), _State(place, clean.contiguous(), x, x.clone(), value, spent), 0


@dataclass
class _State(PerPair):
    """The state of the search, of each pair; changed in place."""

    recomputed: ClassVar[tuple[str, ...]] = ("clean", "tried")

    place: Tensor
    """int64, among the pairs that it began with."""
    clean: Tensor
    best: Tensor
    tried: Tensor
    """The best image, but while it is made into a proposal."""
    value: Tensor
    """Highest other logit less the label's at the best image; above 0 it fools, and stays as it is."""
    spent: Tensor
    """float64, the squared l2 norm of the best image's change, where proposals count it."""

    def ask(self, pairs: Pairs, make: Proposals, drawn: Tensor, side: int) -> None:
        """One query: keep of each pair the better one of its best image and a proposal."""
        from atras.kernels import keep_better

        from .square_proposals import Images

        after = make.propose(Images(self.tried, self.best, self.clean, self.spent), drawn, side)
        logits = pairs.logits(self.tried, self.value > 0).to(self.value)
        spent = None if after is None else (self.spent, after)
        keep_better(self.best, self.tried, self.value, logits, pairs.labels, drawn, side=side, spent=spent)

    def left(self, seldom: bool) -> Tensor | None:
        """int64, those that do not fool yet, where the others are worth the copying; None where they are not.

        Args:
            seldom: whether a single other one is.
        """
        fooling = self.value > 0
        lost = int(fooling.sum())
        return (~fooling).nonzero()[:, 0] if lost and (seldom or 16 * lost >= len(fooling)) else None

    def put(self, found: Found) -> None:
        """Tell what was found so far."""
        found.put(self.place, self.best, self.value, self.value > 0)
