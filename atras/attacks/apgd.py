"""Auto-PGD: projected gradient ascent with momentum whose step size follows from its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from atras.checks import number, one_of, whole

from .ascent import Ascent
from .attack import Passes, Progress
from .pair_attack import PairAttack
from .per_pair import Found
from .stages import stages

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Objective

    from .pairs import Pairs

LOSSES = ("ce", "dlr", "margin")

STANDS_IN = "the difference of the two logits stands in for it"
"""What is ascended in the place of a difference of logits ratio that is not defined for so few classes."""

RADII = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""In l1, the radii of the balls one after the other, in epsilons, and each one's share of the steps."""


@dataclass(frozen=True, repr=False)
class APGD(PairAttack):
    """Projected gradient ascent with momentum that halves its step size where it stops making progress.

    Args:
        norm: `linf`, `l2` or `l1`.
        loss: `ce` (cross-entropy), `dlr` (difference of logits ratio) or `margin`.
        steps: at least 1.
        restarts: random starts, at least 1.
        rho: share of the steps since the last check of the step size that have to ascend.
        eot: gradients that are averaged for a step, for networks that draw at random; 1 for all others.

    Source: Croce, Hein 2020, "Reliable evaluation of adversarial robustness", algorithm 1; for `l1` Croce, Hein 2021,
    "Mind the box", section 3.
    """

    _dlr: ClassVar[str] = "difference of logits ratio"
    _dlr_classes: ClassVar[int] = 3
    """Fewest classes for which it is defined."""

    loss: str = "ce"
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    eot: int = 1

    name = "apgd"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    kept_copies = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("loss", self.loss, LOSSES)
        for option in ("steps", "restarts", "eot"):
            whole(option, getattr(self, option), 1, 10**6)
        number("rho", self.rho, 0.0, 1.0)
        object.__setattr__(self, "rho", float(self.rho))

    def cautions(self, classes: int) -> tuple[str, ...]:
        if self.loss != "dlr" or classes >= self._dlr_classes:
            return ()
        return (f"{self.name}: with {classes} classes there is no {self._dlr}; {STANDS_IN}",)

    def cost(self, classes: int) -> Passes:
        balls = len(RADII) if self.norm == "l1" else 1
        return Passes(1, self.runs(classes) * (self.steps + balls) * self.eot)

    def runs(self, classes: int) -> int:  # noqa: ARG002 (alike for any number of classes)
        return self.restarts

    def run(self, pairs: Pairs, clean: Tensor, clean_logits: Tensor, run: int, progress: Progress) -> Found:
        from .norms import projected, random_point

        objective = self._objective(pairs, clean_logits, run)
        found, balls = Found.nothing(clean), self._balls
        for ball, inner in stages(progress, len(balls)):
            epsilon, steps = balls[ball]
            ascent = Ascent(self, pairs, clean, objective, epsilon, steps, ends=ball == len(balls) - 1)
            if inner.state:
                ascent.go_on(inner.state)
            elif ball == 0:
                ascent.begin(random_point(pairs.drawn(run, clean.shape[1:]), clean, epsilon, self.norm, self.bounds))
            else:
                ascent.begin(projected(found.images, clean, epsilon, self.norm, self.bounds))
            found = ascent.finished(inner)
        return found

    @property
    def _balls(self) -> list[tuple[float, int]]:
        """Radius of each ball that a run ascends in, and the steps in it."""
        if self.norm != "l1":
            return [(self.strength, self.steps)]
        first, second = (int(share * self.steps) for _, share in RADII[:2])
        steps = (first, second, self.steps - first - second)
        return [(radius * self.strength, own) for (radius, _), own in zip(RADII, steps, strict=True)]

    def _objective(self, pairs: Pairs, clean_logits: Tensor, run: int) -> Objective:  # noqa: ARG002 (of the base)
        from atras.networks import Objective

        # The log-odds order images as the cross-entropy does, and do not saturate.
        return Objective("odds" if self.loss == "ce" else self.loss, pairs.labels)


@dataclass(frozen=True, repr=False)
class APGDT(APGD):
    """APGD towards one wrong class after the other, the likeliest first.

    Args:
        loss: `dlr` (its targeted form) or `margin` (the target's logit less the label's).
        targets: how many classes are tried; never more than there are other ones.

    The others are those of `APGD`.

    Source: Croce, Hein 2020, "Reliable evaluation of adversarial robustness", section 4.1 (targeted DLR) and 6.
    """

    _dlr: ClassVar[str] = "targeted difference of logits ratio"
    _dlr_classes: ClassVar[int] = 4

    loss: str = "dlr"
    targets: int = 9

    name = "apgd-t"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("loss", self.loss, LOSSES[1:])
        whole("targets", self.targets, 1, 10**6)

    def runs(self, classes: int) -> int:
        return self.restarts * min(self.targets, classes - 1)

    def _objective(self, pairs: Pairs, clean_logits: Tensor, run: int) -> Objective:
        from atras.networks import Objective

        # Over the first less the third of three logits, a target that comes third has a constant, and no gradient.
        loss = self.loss if clean_logits.shape[-1] >= self._dlr_classes else "margin"
        return Objective(loss, pairs.labels, pairs.wrong_classes(clean_logits)[:, run // self.restarts])
