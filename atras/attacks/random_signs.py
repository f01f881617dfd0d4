"""Random signs, the attack without aim: a control for what changes of that size do by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .attack import Attack, Attacked, Draw, Passes, Start
from .random_starts import starts

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import Classifier


@dataclass(frozen=True, repr=False)
class RandomSigns(Attack):
    """Every pixel by epsilon up or down, as chance has it: a control that an attack has to beat.

    Signs are drawn for each image and seed. Labels and targets make no difference to it. See `Attack`.

    Source: Goodfellow et al. 2015, section 4, which compares the fast gradient sign method with it.
    """

    name = "random-signs"
    uses_gradients = False
    searches = False
    kept_copies = 4

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (alike for any number of classes)
        return Passes(forward=1)

    def __call__(self, networks: Classifier, images: Tensor, labels: Tensor, *, start: Start = Start()) -> Attacked:
        import torch

        self.check(images, start)
        members = len(networks.members)
        clean_logits = networks.logits(images) if start.clean_logits is None else start.clean_logits
        draw: Draw = starts(networks, images, self.name) if start.draw is None else start.draw
        signs = torch.where(draw(0) < 0, -1.0, 1.0).to(images)
        none = torch.zeros(members, dtype=torch.int64, device=images.device)
        return Attacked(
            images=images,
            clipped=(images + self.strength * signs).clamp(*self.bounds).expand(members, *images.shape[-4:]),
            labels=self.loss_labels(clean_logits, labels, start).expand(members, -1),
            clean_logits=clean_logits,
            nan_gradients=none,
            zero_gradients=none,
            gradients=0,
        )
