"""Fast adaptive boundary attack, targeted: steps onto linearised boundaries, biased towards the clean image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from atras.checks import number, whole

from .attack import Passes, Progress
from .pair_attack import PairAttack
from .per_pair import Found, PerPair, kept_of

if TYPE_CHECKING:
    from torch import Tensor

    from .pairs import Pairs


@dataclass(frozen=True, repr=False)
class FABT(PairAttack):
    """Steps onto the boundary with one wrong class after the other, which look for the smallest change.

    A change of at most epsilon is what ends it, so it costs less than the search for the smallest one would.

    Args:
        norm: `linf`, `l2` or `l1`.
        steps: for each class, at least 1.
        targets: how many classes are tried, the likeliest first; never more than there are other ones.
        restarts: starts for each class, the first at the image itself, the others at random points.
        alpha: highest weight of the step from the image itself, in (0, 1].
        eta: by what steps are lengthened, at least 1.
        beta: by what an adversarial point's change is multiplied to go back towards the image, in (0, 1).

    Source: Croce, Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack", algorithm
    1; towards a target, "Reliable evaluation of adversarial robustness", section 6.
    """

    steps: int = 100
    targets: int = 9
    restarts: int = 1
    alpha: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    name = "fab-t"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    kept_copies = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("steps", "targets", "restarts"):
            whole(option, getattr(self, option), 1, 10**6)
        for option, low, high in (("alpha", 0.0, 1.0), ("eta", 1.0, 10.0), ("beta", 0.0, 1.0)):
            number(option, getattr(self, option), low, high)
            object.__setattr__(self, option, float(getattr(self, option)))

    def cost(self, classes: int) -> Passes:
        return Passes(1, self.runs(classes) * (self.steps + 1))

    def runs(self, classes: int) -> int:
        return self.restarts * min(self.targets, classes - 1)

    def run(self, pairs: Pairs, clean: Tensor, clean_logits: Tensor, run: int, progress: Progress) -> Found:
        targets = pairs.wrong_classes(clean_logits)[:, run // self.restarts]
        kept = progress.state
        if kept:
            place, found = kept["place"], Found.loaded(kept)
            state = _State.loaded(kept, clean=clean[place], targets=targets[place])
            pairs = pairs.only(place)
        else:
            found = Found.nothing(clean)
            pairs, state = self._settle(pairs, self._begin(pairs, clean, targets, run), found)
        for step in range(int(kept["done"]) if kept else 0, self.steps):
            if not len(pairs):
                break
            state.x = self._towards(state)
            state.normal, state.value, state.wrong = _boundary(pairs, state.x, state.targets)
            pairs, state = self._settle(pairs, state, found)
            pairs, state = self._go_back(pairs, state, found)
            progress.step(partial(kept_of, found, state, step + 1))
        return found

    def _begin(self, pairs: Pairs, clean: Tensor, targets: Tensor, run: int) -> _State:
        import torch

        from .norms import random_point

        x = clean
        if run % self.restarts:
            draw = pairs.drawn(run, clean.shape[1:])
            x = random_point(draw, clean, self.strength / 2, self.norm, self.bounds)
        place = torch.arange(len(pairs), device=clean.device)
        normal, value, wrong = _boundary(pairs, x, targets)
        pairs.note_blind(normal)
        return _State(place, clean, x, targets, normal, value, wrong)

    def _towards(self, s: _State) -> Tensor:
        """The next points: beyond the linearised boundary, from where the pairs are and a little from the image."""
        from atras.kernels import boundary_step

        options = {"norm": self.norm, "alpha": self.alpha, "eta": self.eta, "bounds": self.bounds}
        return boundary_step(s.x, s.clean, s.normal, s.value, **options)

    def _settle(self, pairs: Pairs, state: _State, found: Found) -> tuple[Pairs, _State]:
        """Keep adversarial points within epsilon, and drop their pairs."""
        from .norms import norm_of

        wrong = state.wrong.nonzero()[:, 0]
        reached = wrong[norm_of(state.x[wrong] - state.clean[wrong], self.norm) <= self.strength]
        if not len(reached):
            return pairs, state
        found.put(state.place[reached], state.x[reached], state.value[reached])
        left = state.wrong.new_ones(len(pairs))
        left[reached] = False
        left = left.nonzero()[:, 0]  # rows are gathered faster by their places than by a mask
        return pairs.only(left), state.only(left)

    def _go_back(self, pairs: Pairs, state: _State, found: Found) -> tuple[Pairs, _State]:
        """Bring adversarial points that are too far from their images nearer to them."""
        wrong = state.wrong.nonzero()[:, 0]
        if not len(wrong):
            return pairs, state
        clean = state.clean[wrong]
        nearer = clean + self.beta * (state.x[wrong] - clean)
        # In place: what this step has made is nobody else's.
        state.x[wrong] = nearer
        state.normal[wrong], state.value[wrong], state.wrong[wrong] = _boundary(
            pairs.only(wrong), nearer, state.targets[wrong]
        )
        return self._settle(pairs, state, found)


@dataclass
class _State(PerPair):
    """The state of the search, of each pair."""

    recomputed: ClassVar[tuple[str, ...]] = ("clean", "targets")

    place: Tensor
    """int64, among the pairs that it began with."""
    clean: Tensor
    x: Tensor
    targets: Tensor
    normal: Tensor
    """Gradient at x of the target's logit less the label's."""
    value: Tensor
    """That difference at x: negative while the label's logit is higher."""
    wrong: Tensor
    """bool, whether x is misclassified."""


def _boundary(pairs: Pairs, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient [P, C, H, W] and value [P] of the targets' logits less the labels', and whether x is misclassified."""
    from atras.networks import Objective

    towards = Objective("margin", pairs.labels, targets)
    normal, logits = pairs.gradient(x, towards)
    return normal, towards.values(logits), logits.argmax(-1) != pairs.labels
