"""Images that fool at one epsilon, which the same attack at the next larger one takes over."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from atras.attacks import Attack, Attacked
from atras.networks import Classifier


class Carried:
    """What an attack at one epsilon leaves to the one at the next: balls of one centre are nested.

    Args:
        images: [M, B, C, H, W], what it made of a chunk; None where nothing is carried.
        logits: [M, B, Y], theirs.
        made_at: float64 [M, B], the epsilon at which each was made; infinite for one that does not fool.
        part: int8 [M, B], the part of the attack that made each; None without parts.
    """

    def __init__(
        self,
        images: Tensor | None = None,
        logits: Tensor | None = None,
        made_at: Tensor | None = None,
        part: Tensor | None = None,
    ) -> None:
        self.images, self.logits, self.made_at, self.part = images, logits, made_at, part

    @classmethod
    def behind(
        cls,
        attack: Attack,
        following: Attack | None,
        attacked: Attacked,
        logits: Tensor,
        made_at: Tensor,
        correct: Tensor,
    ) -> Carried:
        """What an attack leaves to the one that follows it: nothing, where that is another one.

        Args:
            attack, following: with definite epsilons.
            attacked, logits, made_at: of the attack, as `over` gives them.
            correct: bool [M, B], which images it does not turn.
        """
        if following is None or not attack.carries or following.at_any_epsilon != attack.at_any_epsilon:
            return cls()
        return cls(attacked.clipped, logits, made_at.masked_fill(correct, torch.inf), attacked.part)

    @property
    def fooled(self) -> Tensor | None:
        """bool [M, B]: which images need no attack; None for none."""
        return None if self.made_at is None else self.made_at.isfinite()

    def over(self, networks: Classifier, attack: Attack, attacked: Attacked) -> tuple[Attacked, Tensor, Tensor]:
        """What an attack made, in whose place stands what is carried and fools; logits [M, B, Y]; where it was made."""
        logits = attacked.logits_of(networks)
        epsilon = attack.strength if attack.bounded else 0.0
        made_at = torch.full(logits.shape[:2], epsilon, dtype=torch.float64, device=logits.device)
        if self.images is None or self.logits is None or self.made_at is None:
            return attacked, logits, made_at
        up = self.made_at.isfinite()
        images = torch.where(up[..., None, None, None], self.images, attacked.clipped)
        logits = torch.where(up[..., None], self.logits, logits)
        part = attacked.part
        if part is not None and self.part is not None:
            part = torch.where(up, self.part, part)
        attacked = replace(attacked, clipped=images, logits=logits, part=part)
        return attacked, logits, torch.where(up, self.made_at, made_at)
