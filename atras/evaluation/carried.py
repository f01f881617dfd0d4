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
    """

    def __init__(
        self, images: Tensor | None = None, logits: Tensor | None = None, made_at: Tensor | None = None
    ) -> None:
        self.images, self.logits, self.made_at = images, logits, made_at

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
        return cls(attacked.clipped, logits, made_at.masked_fill(correct, torch.inf))

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
        return replace(attacked, clipped=images, logits=logits), logits, torch.where(up, self.made_at, made_at)
