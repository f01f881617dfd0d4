"""The evaluators of a population: of all members, and of those that are attacked at one epsilon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atras.attacks import Attack

from .attack_work import Attacking
from .counters import Score, by_places
from .evaluator import Evaluator


@dataclass(frozen=True, eq=False)
class AtEpsilon:
    """Members that are attacked at one epsilon.

    Args:
        places: of them among all members.
        evaluator: of them alone.
        refresh: gives its networks the parameters that the members have now.
    """

    places: Sequence[int]
    evaluator: Evaluator
    refresh: Callable[[], None] = lambda: None


class Evaluators:
    """Evaluates all members of a population at once, and attacks those of each epsilon by themselves.

    Args:
        whole: of all members: for clean images, and signs, in which the epsilon makes no difference.
        each: of the members of each epsilon, every member in one; None where all have the same.
    """

    def __init__(self, whole: Evaluator, each: Sequence[AtEpsilon] | None = None) -> None:
        self.whole = whole
        self.each = each or (AtEpsilon(range(len(whole.networks.members)), whole),)
        self._all = list(dict.fromkeys([whole, *(one.evaluator for one in self.each)]))

    def watch(self, pause: Callable[[], None]) -> None:
        """As `Evaluator.pause`, of all of them."""
        for evaluator in self._all:
            evaluator.pause = pause

    def tensors(self) -> dict[str, Tensor]:
        """As `Evaluator.tensors`."""
        return {name: values for evaluator in self._all for name, values in evaluator.tensors().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """As `Evaluator.load`."""
        for evaluator in self._all:
            evaluator.load(tensors)

    def forget(self) -> None:
        """As `Evaluator.forget`."""
        for evaluator in self._all:
            evaluator.forget()

    def attacking(self) -> Attacking | None:
        """What attack is being made on the test images, one epsilon after the other; None where none is."""
        before, count = 0, len(self.whole.networks.members)
        for one in self.each:
            if (now := one.evaluator.attacking()) is not None:
                return now._replace(share=(before + now.share * len(one.places)) / count)
            before += len(one.places)
        return None

    def gaps(self) -> list[tuple[AtEpsilon, dict[Attack, Score]]]:
        """As `Evaluator.gap`, of the members of each epsilon."""
        found = []
        for one in self.each:
            one.refresh()
            found.append((one, one.evaluator.gap()))
        return found

    def validate(self) -> Score:
        """As `Evaluator.validate`, of all members."""
        found = []
        for one in self.each:
            one.refresh()
            found.append((one.places, one.evaluator.validate()))
        return found[0][1] if len(found) == 1 else by_places(found)


def gap_by_name(gaps: Sequence[tuple[AtEpsilon, Mapping[Attack, Score]]]) -> dict[str, Score]:
    """By attack's name the score of all members, from what `Evaluators.gaps` gave; nothing where that is empty."""
    named = [(one.places, {attack.name: score for attack, score in gap.items()}) for one, gap in gaps]
    return {name: by_places([(places, own[name]) for places, own in named]) for name in (named[0][1] if named else ())}


def epsilons_apart(epsilons: Sequence[float], device: torch.device) -> float | Tensor:
    """The epsilon that all members have, or float64 [M], each one's."""
    if len(set(epsilons)) == 1:
        return epsilons[0]
    return torch.tensor(epsilons, dtype=torch.float64, device=device)
