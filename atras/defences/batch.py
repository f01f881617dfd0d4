"""Adversarial copies that are made anew in every batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from atras.attacks import FGSM, Attack, Draw, Passes, Start
from atras.errors import InputError, shown

from .defence import Batch, Defence, place_all

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import StepResult, Trainable


@dataclass(frozen=True, repr=False)
class BatchCopies(Defence):
    """Training goes on with an adversarial copy of every image, made anew in every batch on the network as it is.

    Args:
        attack: untargeted, at the true label.

    Raises:
        InputError: if the attack is targeted, takes its label from the network, or is made on another one.

    Source: Goodfellow et al. 2015, section 6 (with `fgsm`); Wong, Rice, Kolter 2020 (with `random-fgsm`).
    """

    attack: Attack = FGSM()

    name = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.attack, Attack):
            raise InputError(f"batch: attack (={shown(self.attack)}): expected an attack, such as FGSM()")
        if self.attack.target != "none" or self.attack.label_source != "true":
            raise InputError(
                f"batch: attack (={self.attack}): expected an untargeted attack at the true label; leave target and "
                "label_source out"
            )
        if self.attack.surrogate is not None:
            raise InputError(
                f"batch: attack (={self.attack}): expected one made on the network that is trained; leave surrogate out"
            )

    def at(self, epsilon: float) -> Self:
        return dataclasses.replace(self, attack=self.attack.at(epsilon))

    def cost(self, classes: int) -> Passes:
        return self.attack.cost_of_making(classes)

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        return networks.step(self._attacked(networks, batch), batch.labels)

    def _attacked(self, networks: Trainable, batch: Batch) -> Tensor:
        """[M, B, C, H, W], the batch with its copies attacked; its images themselves where there are no copies."""
        import torch

        images, labels, copied, epoch, number, classes = batch
        count = int(copied.sum(-1).max())
        if not count:
            return images
        # Members of different seeds have different copies: each brings as many images as the one with most copies.
        chosen = copied.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :count]
        members = torch.arange(len(networks.members), device=images.device)[:, None]
        own = () if copied.ndim == 1 else (members,)
        start = Start(draw=self._draw(networks, images, chosen, epoch, number), classes=classes)
        made = self.attack(networks, images[*own, chosen], labels[*own, chosen], start=start).clipped
        return place_all(images, chosen, made, copied[*own, chosen])

    def _draw(self, networks: Trainable, images: Tensor, chosen: Tensor, epoch: int, batch: int) -> Draw:
        """Random starts by seed, epoch, batch and place in it."""
        size, *own_shape = images.shape[-4:]

        def draw(number: int, shape: Sequence[int] | None = None) -> Tensor:
            import torch

            from atras.networks import batch_starts, seeds_of

            seeds, place = seeds_of(networks.members)
            keys = (epoch, batch, self.attack.name, number, size, own_shape if shape is None else shape)
            all_starts = torch.stack([batch_starts(seed, *keys) for seed in seeds]).to(images)
            if chosen.ndim == 1:
                return all_starts[0, chosen]
            return all_starts[torch.tensor(place, device=images.device)[:, None], chosen]

        return draw
