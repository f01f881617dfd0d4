"""The ascent of Auto-PGD: steps with momentum in one ball, whose size follows from their progress.

Source: Croce, Hein 2020, "Reliable evaluation of adversarial robustness", algorithm 1; for `l1` Croce, Hein 2021, "Mind
the box", section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Protocol

from .attack import Progress
from .per_pair import Found, PerPair, kept_of

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Objective

    from .attack import Bounds
    from .pairs import Pairs

FIRST_CHECK, SHORTER, LEAST = 0.22, 0.03, 0.06
"""Shares of the steps: until the first check of the step size, by how much each further wait is shorter, the least."""

TENTH = 10
"""A run is unfinished where its rise over the last tenth of the steps, so many times, would reach the boundary."""

MOMENTUM = 0.75
"""Weight of the new step; the rest goes to the one before."""

L1_CHECK, SPARSER, FALL, SMALLEST = 0.04, 1.5, 1.5, 10.0
"""In l1: share of the steps between two checks; by what the share of pixels that move is divided; by what a step size
that stays is; how far it falls at the most."""


class Ascending(Protocol):
    """Options of the attack; see `APGD`."""

    @property
    def norm(self) -> str: ...
    @property
    def bounds(self) -> Bounds: ...
    @property
    def rho(self) -> float: ...
    @property
    def eot(self) -> int: ...


@dataclass
class _State(PerPair):
    """The state of an ascent, of each pair."""

    recomputed: ClassVar[tuple[str, ...]] = ("clean",)

    place: Tensor
    """int64, among the pairs that it began with."""
    clean: Tensor
    x: Tensor
    before: Tensor
    """x of the step before."""
    gradient: Tensor
    value: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    step: Tensor
    """Step size."""
    ascents: Tensor
    """Steps since the last check that ascended."""
    checked_value: Tensor
    """Best value at the last check."""
    shortened: Tensor
    """bool, whether the last check shortened the step."""
    moving: Tensor
    """In l1, share of the pixels that a step moves."""
    changed: Tensor
    """In l1, number of changed pixels at the last check."""
    lost: Tensor
    """bool, whether the pair is fooled, and only waits to be dropped."""
    late_value: Tensor
    """Best value when a tenth of the steps is left."""


class Ascent:
    """One run of the algorithm in one ball, for P pairs.

    Args:
        attack: whose options it has.
        pairs, clean, objective: of the pairs.
        epsilon, steps: of this ball.
        ends: whether a pair that is fooled is at its end; not in a ball that is too large.
    """

    def __init__(
        self,
        attack: Ascending,
        pairs: Pairs,
        clean: Tensor,
        objective: Objective,
        epsilon: float,
        steps: int,
        ends: bool = True,
    ) -> None:
        self.attack, self.pairs, self.clean, self.objective = attack, pairs, clean, objective
        self.epsilon, self.steps, self.ends = epsilon, steps, ends
        self.found, self.done = Found.nothing(clean), 0

    def begin(self, x: Tensor) -> None:
        """Take the starting points."""
        import torch

        x = x.contiguous()
        gradient, logits = self._evaluate(x, lost=None)
        self.pairs.note_blind(gradient)
        value = self.objective.values(logits)
        changed = (x != self.clean).flatten(1).sum(1)
        false = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.state = _State(
            place=torch.arange(len(x), device=x.device), clean=self.clean, x=x, before=x, gradient=gradient,
            value=value, best=x.clone(), best_gradient=gradient.clone(), best_value=value,
            step=torch.full_like(value, self.epsilon * (1 if self.attack.norm == "l1" else 2)),
            ascents=torch.zeros(len(x), dtype=torch.int64, device=x.device), checked_value=value, shortened=~false,
            moving=changed / self.clean[0].numel() / SPARSER, changed=changed, lost=false,
            late_value=value,
        )  # fmt: skip
        self._note_fooled(logits)

    def go_on(self, kept: Mapping[str, Tensor]) -> None:
        """Take the state that was kept."""
        place = kept["place"]
        self.found, self.done = Found.loaded(kept), int(kept["done"])
        self.state = _State.loaded(kept, clean=self.clean[place])
        self.pairs, self.objective = self.pairs.only(place), self.objective.only(place)

    def finished(self, progress: Progress) -> Found:
        """Take all steps that are left; of a pair that is not fooled the image of the highest value."""
        checks, late = self._checks, self.steps - self.steps // TENTH
        for step in range(self.done, self.steps):
            if not len(self.pairs):
                break
            if step == late:
                self.state.late_value = self.state.best_value
            self._move(first=step == 0)
            self._look()
            if step in checks and self.attack.norm == "l1":
                self._check_sparsity()
            elif step in checks:
                self._check_progress(checks[step])
            progress.step(partial(kept_of, self.found, self.state, step + 1))
        s = self.state
        left = ~s.lost
        if self.ends and late < self.steps:
            rise = s.best_value - s.late_value
            # By log-odds of log(classes - 1) the label is certainly no longer the likeliest class.
            boundary = math.log(max(self.pairs.networks.classes - 1, 1)) if self.objective.kind == "odds" else 0.0
            self.pairs.note_rising(left & (rise > 0) & (s.best_value + TENTH * rise > boundary))
        self.found.put(s.place[left], s.best[left], s.best_value[left], fooled=False)
        return self.found

    @property
    def _checks(self) -> dict[int, int]:
        """The steps after which the step size is checked, each with how many steps there were since the last one."""
        share, shorter = (L1_CHECK, 0) if self.attack.norm == "l1" else (FIRST_CHECK, max(int(SHORTER * self.steps), 1))
        wait, least, checks = max(int(share * self.steps), 1), max(int(LEAST * self.steps), 1), {}
        step = wait - 1
        while step < self.steps:
            checks[step] = wait
            wait = max(wait - shorter, least) if shorter else wait
            step += wait
        return checks

    def _evaluate(self, x: Tensor, lost: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gradient and logits at some points; of several passes their means."""
        gradient, logits = self.pairs.gradient(x, self.objective, lost)
        if self.attack.eot == 1:
            return gradient.contiguous(), logits
        for _ in range(1, self.attack.eot):
            again, other = self.pairs.gradient(x, self.objective, lost)
            gradient, logits = gradient + again, logits + other
        return (gradient / self.attack.eot).contiguous(), logits / self.attack.eot

    def _move(self, first: bool) -> None:
        """Take a step along the gradient and, but for the first, some of the step before."""
        from atras.kernels import ascent_step

        from .norms import near_one, projected, scaled

        s, norm = self.state, self.attack.norm
        if norm == "linf":
            before, options = None if first else s.before, {"epsilon": self.epsilon, "bounds": self.attack.bounds}
            reached = ascent_step(s.x, before, s.gradient, s.clean, s.step, weight=MOMENTUM, **options)
            s.before, s.x = s.x, reached
            return
        ball = (s.clean, self.epsilon, norm, self.attack.bounds)
        direction = self._sparse_signs() if norm == "l1" else scaled(near_one(s.gradient), 1.0, "l2")
        reached = projected(s.x + s.step[:, None, None, None] * direction, *ball)
        if norm != "l1" and not first:
            reached = projected(s.x + MOMENTUM * (reached - s.x) + (1 - MOMENTUM) * (s.x - s.before), *ball)
        s.before, s.x = s.x, reached

    def _sparse_signs(self) -> Tensor:
        """Signs of the pixels with the largest gradients, together of l1 norm 1."""
        import torch

        from .norms import scaled

        s = self.state
        gradient = torch.nan_to_num(s.gradient, nan=0.0)
        sizes = gradient.abs().flatten(1)
        pixels = sizes.shape[1]
        rank = ((1 - s.moving) * pixels).long().clamp(0, pixels - 1)
        least = sizes.sort(1).values.gather(1, rank[:, None])
        signs = gradient.sign() * (sizes >= least).view_as(gradient)
        return scaled(signs, 1.0, "l1")

    def _look(self) -> None:
        """Evaluate where the pairs are, and remember the best and the fooling images."""
        import torch

        from atras.kernels import keep_rows

        s = self.state
        s.gradient, logits = self._evaluate(s.x, s.lost)
        value = self.objective.values(logits)
        s.ascents = s.ascents + (value > s.value)
        s.value = value
        better = value > s.best_value
        keep_rows((s.best, s.best_gradient), (s.x, s.gradient), better)
        s.best_value = torch.where(better, value, s.best_value)
        self._note_fooled(logits)

    def _note_fooled(self, logits: Tensor) -> None:
        """Keep images that fool; drop their pairs once they are many enough to be worth the copying."""
        s = self.state
        fooling = (logits.argmax(-1) != self.pairs.labels) & ~s.lost
        if not self.ends or not fooling.any():
            return
        self.found.put(s.place[fooling], s.x[fooling], s.value[fooling])
        s.lost = s.lost | fooling
        if 16 * int(s.lost.sum()) >= len(s.lost):
            kept = ~s.lost
            self.pairs = self.pairs.only(kept)
            self.objective = self.objective.only(kept)
            self.state = s.only(kept)

    def _check_progress(self, wait: int) -> None:
        """Halve the steps of pairs that ascend too rarely, or have not got higher, and take them back to their best."""
        s = self.state
        rarely = s.ascents <= self.attack.rho * wait
        stuck = ~s.shortened & (s.checked_value >= s.best_value)
        s.shortened, s.checked_value = rarely | stuck, s.best_value
        s.ascents = s.ascents.new_zeros(s.ascents.shape)
        self._return(s.shortened)
        s.step = s.step / (1 + s.shortened.to(s.step.dtype))

    def _check_sparsity(self) -> None:
        """In l1: where the best image changed fewer pixels, start anew from it; elsewhere shorten the step."""
        import torch

        s = self.state
        changed = (s.best != s.clean).flatten(1).sum(1)
        sparser = changed < 0.95 * s.changed
        s.moving = changed / s.clean.shape[1:].numel() / SPARSER  # there may be no pair left
        shorter = (s.step / FALL).clamp(self.epsilon / SMALLEST, self.epsilon)
        s.step = torch.where(sparser, self.epsilon, shorter)
        s.changed = changed
        self._return(sparser)

    def _return(self, chosen: Tensor) -> None:
        from atras.kernels import keep_rows

        s = self.state
        # In place: what this step has made is nobody else's.
        keep_rows((s.x, s.gradient), (s.best, s.best_gradient), chosen)
