"""The descent of Carlini and Wagner's attack: Adam in tanh space with one constant a pair.

Source: Carlini, Wagner 2017, "Towards evaluating the robustness of neural networks", section V, and the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Protocol

from .attack import Progress
from .minimum_norm import lead
from .per_pair import Found, PerPair, kept_of

if TYPE_CHECKING:
    from torch import Tensor

    from .attack import Bounds
    from .pairs import Pairs

DECAYS = (0.9, 0.999)
"""Of Adam's means of the gradient and of its square."""

ADAM_TINY = 1e-8

INSIDE = 1 - 1e-6
"""By what images are brought inside the range of tanh."""

CHECKS, ENOUGH = 10, 0.9999
"""How often in a search progress is looked at, and by what share of itself the loss has to have fallen."""


class Descending(Protocol):
    """Options of the attack; see `CW`."""

    @property
    def bounds(self) -> Bounds: ...
    @property
    def confidence(self) -> float: ...
    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...


@dataclass
class _State(PerPair):
    """The state of a descent, of each pair."""

    recomputed: ClassVar[tuple[str, ...]] = ("clean", "constant")

    place: Tensor
    """int64, among the pairs that it began with."""
    clean: Tensor
    constant: Tensor
    origin: Tensor
    """The image in tanh space."""
    moved: Tensor
    """By how much, there."""
    mean: Tensor
    square: Tensor
    """Adam's means of the gradient and of its square."""
    checked: Tensor
    """The loss at the last check."""


class Descent:
    """One search with one constant a pair, for P pairs.

    Args:
        attack: whose options it has.
        pairs, clean: [P, C, H, W], of the pairs.
        constants: [P].
        found: what the searches before have found, which is improved in place.
    """

    def __init__(self, attack: Descending, pairs: Pairs, clean: Tensor, constants: Tensor, found: Found) -> None:
        import torch

        self.attack, self.pairs, self.clean, self.constants = attack, pairs, clean, constants
        self.found, self.done = found, 0
        self.fooled = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        self.low, self.half = attack.bounds[0], (attack.bounds[1] - attack.bounds[0]) / 2
        place, none = torch.arange(len(clean), device=clean.device), torch.zeros_like(clean)
        origin = (((clean - self.low) / self.half - 1) * INSIDE).atanh()
        checked = torch.full_like(constants, torch.inf)
        self.state = _State(place, clean, constants, origin, none, none, none, checked)

    def finished(self, progress: Progress) -> Tensor:
        """Take all steps that are left; bool [P], whether the constant was large enough for an image that fools."""
        if progress.state:
            self._go_on(progress.state)
        for step in range(self.done, self.attack.steps):
            if not len(self.pairs):
                break
            moving = self._step(step)
            if not moving.all():
                self.pairs, self.state = self.pairs.only(moving), self.state.only(moving)
            progress.step(partial(self._kept, step + 1))
        return self.fooled

    def _kept(self, done: int) -> dict[str, Tensor]:
        return {**kept_of(self.found, self.state, done), "turned": self.fooled}

    def _go_on(self, kept: Mapping[str, Tensor]) -> None:
        place = kept["place"]
        self.found, self.fooled, self.done = Found.loaded(kept), kept["turned"].clone(), int(kept["done"])
        self.state = _State.loaded(kept, clean=self.clean[place], constant=self.constants[place])
        self.pairs = self.pairs.only(place)

    def _step(self, step: int) -> Tensor:
        """Look at where the pairs are and take a step of Adam; bool [P], which are worth another one."""
        import torch

        from atras.networks import Objective

        from .norms import norm_of

        s, attack = self.state, self.attack
        inside = (s.origin + s.moved).tanh()
        x = (self.low + self.half * (1 + inside)).clamp(*attack.bounds)
        objective = Objective("margin", self.pairs.labels)
        gradient, logits = self.pairs.gradient(x, objective)
        missing = (attack.confidence - objective.values(logits)).clamp(min=0)
        size = norm_of(x - s.clean, "l2")
        self._keep(lead(logits, self.pairs.labels) > attack.confidence, x, size)
        loss = size.square() + s.constant * missing
        wide = (s.constant * (missing > 0))[:, None, None, None]
        slope = (2 * (x - s.clean) - wide * torch.nan_to_num(gradient, nan=0.0)) * self.half * (1 - inside.square())
        self._adam(slope, step + 1)
        if step % max(attack.steps // CHECKS, 1):
            return torch.ones_like(size, dtype=torch.bool)
        falling, s.checked = loss <= ENOUGH * s.checked, loss
        return falling

    def _keep(self, reached: Tensor, x: Tensor, size: Tensor) -> None:
        """Keep the images that fool and are nearer than what was found before."""
        place = self.state.place
        self.fooled[place[reached]] = True
        closer = reached & (size < -self.found.values[place])
        self.found.put(place[closer], x[closer], -size[closer])

    def _adam(self, slope: Tensor, step: int) -> None:
        s, (first, second) = self.state, DECAYS
        s.mean = first * s.mean + (1 - first) * slope
        s.square = second * s.square + (1 - second) * slope.square()
        root = (s.square / (1 - second**step)).sqrt() + ADAM_TINY
        s.moved = s.moved - self.attack.learning_rate * (s.mean / (1 - first**step)) / root
