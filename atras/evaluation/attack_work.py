"""How far attacks are, by what they are priced at (`Attack.cost`), corrected as images are turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from atras.attacks import Attack, Attacked, Passes


class Attacking(NamedTuple):
    """What is under way.

    Args:
        attack: which.
        share: of the work of all attacks on the images, as far as it is known, that is done.
        work: that work, as a share of what it is priced at: as if every image were classified correctly and none were
            turned before an attack's last step.
    """

    attack: Attack
    share: float
    work: float = 1.0


class UnderWay(Protocol):
    """Where the attack stands that is being made; see `Steps`."""

    made: int

    def tensors(self) -> Mapping[str, Tensor]: ...


class AttackWork:
    """The work of several attacks on some images, in forward passes of an image; a gradient is two.

    Of the images that are under attack those count that still stand, each with all passes that the attack may yet take
    for it; of the images to come as much as those before took, and before there are any, all that the attacks are
    priced at, for those that no attack on the same images has turned.

    Args:
        attacks: in their order, on each chunk of images.
        classes: logits.
        members: networks.
        images: how many in all.
    """

    def __init__(self, attacks: Sequence[Attack], classes: int, members: int, images: int) -> None:
        self.attacks, self.classes, self.members, self.images = list(attacks), classes, members, images
        self._costs = [_weight(attack.cost(classes)) for attack in attacks]
        self._ceilings = [_weight(attack.cost_of_making(classes)) for attack in attacks]
        self._pairs = [0] * len(self.attacks)
        self._spent: list[Tensor | float] = [0.0] * len(self.attacks)
        self._seen: tuple[tuple[int, int], Tensor, Tensor] | None = None

    def made(self, at: int, attacked: Attacked, pairs: int) -> None:
        """An attack, by its number, has been made on so many (member, image) pairs."""
        self._pairs[at] += pairs
        if attacked.spent is None:
            self._spent[at] += self._costs[at] * pairs
        else:  # one more to look at what was made
            self._spent[at] += attacked.spent.queries.sum() + 2 * attacked.spent.gradients.sum() + pairs

    def now(self, at: int, done: int, chunk: int, steps: UnderWay, standing: Tensor | None = None) -> Attacking:
        """Where they stand.

        Args:
            at: number of the attack that is under way; that of all of them between the last one and the next images.
            done: images of whole chunks that all attacks are made on.
            chunk: images that it is made on.
            steps: of the attack.
            standing: bool [M, B], which of them no attack before has turned; None where none was made.
        """
        share = 1.0 if standing is None else float(standing.double().mean())
        finished = left = expected = 0.0
        for number, attack in enumerate(self.attacks):
            each = self._costs[number] * (share if attack.drops_fooled else 1.0)
            if self._pairs[number]:
                each = float(self._spent[number]) / self._pairs[number]
            behind = (done + chunk * (number < at)) * self.members
            finished += float(self._spent[number]) + each * max(behind - self._pairs[number], 0)
            left += each * (self.images * self.members - behind - chunk * self.members * (number == at))
            expected = each if number == at else expected
        if at < len(self.attacks):
            spent, more = self._under_way(at, done, expected * chunk * self.members, chunk * self.members, steps)
            finished, left = finished + spent, left + more
        whole, priced = finished + left, sum(self._costs) * self.members * self.images
        attack = self.attacks[min(at, len(self.attacks) - 1)]
        return Attacking(attack, finished / whole if whole else 1.0, whole / priced if priced else 1.0)

    def _under_way(self, at: int, done: int, expected: float, pairs: int, steps: UnderWay) -> tuple[float, float]:
        """What the attack has spent on its pairs, and what it may yet spend, where so much is expected of it in all."""
        kept = steps.tensors().get("spent")
        if kept is None:  # an attack that goes all steps with all images, or one that is about to begin
            spent = min((1.0 + self.attacks[at].uses_gradients) * steps.made * pairs, expected)
            return spent, expected - spent
        spent_on = kept[0] + 2 * kept[1]
        key = at, done
        before = self._seen[1] if self._seen is not None and self._seen[0] == key else torch.zeros_like(spent_on)
        active = spent_on > before
        if self._seen is not None and self._seen[0] == key and not active.any():  # asked twice between two steps
            active = self._seen[2]
        self._seen = key, spent_on, active
        left = (self._ceilings[at] - spent_on).clamp(min=0) * active
        return float(spent_on.sum()), float(left.sum())


def _weight(passes: Passes) -> float:
    return passes.forward + 2 * passes.gradient
