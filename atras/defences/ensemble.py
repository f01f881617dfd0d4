"""Ensemble adversarial training: copies made on other networks too, which were trained before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from atras.attacks import FGSM, Passes
from atras.checks import one_of, whole
from atras.errors import InputError, shown
from atras.networks import Candidate

from .anew import own_epsilon
from .batch import BatchCopies
from .defence import Batch, Defence

if TYPE_CHECKING:
    from atras.networks import StepResult, Trainable


@dataclass(frozen=True, repr=False)
class EnsembleTraining(Defence):
    """Images and their FGSM copies, which come batch by batch in turn from k other networks and the network itself.

    The others are of the same seed, trained as in the first training, and their copies are made once.

    Args:
        k: other networks.
        sources: `smallest` for the k smallest other candidates of the run by parameters, or more than k candidates of
            the run, such as `24+40-80+96+192`: the first k of them that are not the network's own.
        epsilon: of the copies made on the network itself; None for the run's, which those of the others always have.
        start: `scratch` for the initial weights, or `trained` for those that the first training led to.

    Source: Tramèr et al. 2018, "Ensemble adversarial training: attacks and defenses", section 4.
    """

    k: int = 3
    sources: str = "smallest"
    epsilon: float | None = None
    start: str = field(default="scratch", kw_only=True)

    name = "ensemble"
    own_numbers = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("k", self.k, 1, 100)
        one_of("start", self.start, ("scratch", "trained"))
        FGSM(self.epsilon)  # refuses an epsilon out of range
        # Each of them learns from k others itself, so that one more is needed.
        if not isinstance(self.sources, str) or (self.named and len(set(self.named)) <= self.k):
            raise InputError(
                f"ensemble: sources (={shown(self.sources)}): expected smallest, or more than k (={self.k}) different "
                "candidates joined by +, such as 24+40-80+96+192"
            )

    @property
    def attack(self) -> FGSM:
        """What makes the copies."""
        return FGSM(self.epsilon)

    @property
    def named(self) -> tuple[Candidate, ...]:
        """The candidates in `sources`; none where it is `smallest`."""
        if self.sources == "smallest":
            return ()
        return tuple(Candidate.parse(name) for name in self.sources.split("+"))

    @property
    def others(self) -> int:
        return self.k

    def chosen(self, by_size: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """The candidates whose copies are made, from those of the run, the smallest first.

        Raises:
            InputError: if one is not of the run, or the run has too few.
        """
        for candidate in self.named:
            if candidate not in by_size:
                raise InputError(
                    f"defence (={self}): expected candidates of this run, got {candidate.name}; add "
                    f"--hidden {candidate.name}"
                )
        if len(by_size) <= self.k:
            fewer = len(by_size) - 1
            advice = (
                f"write {dataclasses.replace(self, k=fewer)}, or add candidates"
                if fewer
                else ("with one there is nothing to learn from: add candidates, or take adversarial(fgsm)")
            )
            raise InputError(
                f"defence (={self}): expected more candidates than k (={self.k}), got {len(by_size)}; {advice}"
            )
        return self.named or tuple(by_size[: self.k + 1])

    def at(self, epsilon: float) -> Self:
        return self if self.epsilon is not None else dataclasses.replace(self, epsilon=epsilon)

    @property
    def own(self) -> dict[str, float]:
        return own_epsilon(self.attack)

    @property
    def alike(self) -> Self:
        return dataclasses.replace(self, epsilon=None)

    def cost(self, classes: int) -> Passes:
        return Passes().plus(self.attack.cost_of_making(classes), 1 / (self.k + 1))

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        if batch.made:
            return networks.step(batch.images, batch.labels)
        return BatchCopies(self.attack).step(networks, batch)
