"""Adversarial copies that are made anew in every batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from atras.attacks import FGSM, Attack, Passes, Start
from atras.checks import number

from .anew import check_attack, draws, own_epsilon, without_epsilon
from .defence import Batch, Defence, place_all

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import StepResult, Trainable


@dataclass(frozen=True, repr=False)
class BatchCopies(Defence):
    """Training goes on with an adversarial copy of every image, made anew in every batch on the network as it is.

    Args:
        attack: untargeted, at the true label.
        mix: share of adversarial images. At 0.5 an epoch has every image and its copy; otherwise as many positions, of
            which those of images, or of copies, are each drawn to be the other.

    Raises:
        InputError: if the attack is targeted, takes its label from the network, or is made on another one.

    Source: Goodfellow et al. 2015, section 6 (with `fgsm`); Wong, Rice, Kolter 2020 (with `random-fgsm`).
    """

    attack: Attack = FGSM()
    mix: float = 0.5

    name = "batch"
    own_numbers = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_attack(self)
        number("mix", self.mix, 0.0, 1.0)

    def at(self, epsilon: float) -> Self:
        return dataclasses.replace(self, attack=self.attack.at(epsilon))

    @property
    def own(self) -> dict[str, float]:
        return own_epsilon(self.attack)

    @property
    def alike(self) -> Self:
        return dataclasses.replace(self, attack=without_epsilon(self.attack))

    def cost(self, classes: int) -> Passes:
        return Passes().plus(self.attack.in_training.cost_of_making(classes), 2 * self.mix)

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        batch = batch._replace(copied=self._copied(networks, batch))
        return networks.step(self._attacked(networks, batch), batch.labels)

    def _copied(self, networks: Trainable, batch: Batch) -> Tensor:
        """bool [B] or [M, B]: which positions are adversarial."""
        if self.mix == 0.5:
            return batch.copied
        # Of the positions of copies, or of images, so many change sides.
        drawn = (draws(networks, batch, "mix")(0, ()) + 1) / 2
        if self.mix < 0.5:
            return batch.copied & (drawn < 2 * self.mix)
        return batch.copied | (drawn < 2 * self.mix - 1)

    def _attacked(self, networks: Trainable, batch: Batch) -> Tensor:
        """[M, B, C, H, W], the batch with its copies attacked; its images themselves where there are no copies."""
        import torch

        images, labels, copied = batch.images, batch.labels, batch.copied
        count = int(copied.sum(-1).max())
        if not count:
            return images
        # Members of different seeds have different copies: each brings as many images as the one with most copies.
        chosen = copied.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :count]
        members = torch.arange(len(networks.members), device=images.device)[:, None]
        own = () if copied.ndim == 1 else (members,)
        if own:
            images, labels = images.expand(len(members), *images.shape[-4:]), labels.expand(len(members), -1)
        attack = self.attack.in_training
        draw = draws(networks, batch, attack.name, chosen)
        start = Start(draw=draw, classes=batch.classes, in_range=batch.in_range, epsilons=batch.own.get("epsilon"))
        made = attack(networks, images[*own, chosen], labels[*own, chosen], start=start).clipped
        return place_all(images, chosen, made, copied[*own, chosen])
