"""Adam and SGD over stacked parameters, with a learning rate and a weight decay a member."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BETA1, BETA2, DENOMINATOR_TERM = 0.9, 0.999, 1e-8
CLIP_TERM = 1e-6
"""Added to the norm that a gradient is divided by, as `torch.nn.utils.clip_grad_norm_` does."""


class StackedOptimizer:
    """Updates parameters [M, ...] in place; each member as torch.optim would update it alone.

    Args:
        parameters: stacked tensors, [M, ...] each.
        name: `adam`, `adamw` or `sgd`.
        learning_rates: one a member.
        momentum: of `sgd`.
        weight_decays: one a member; decoupled with `adamw`. None for none.
        clip: longest gradient of a member, over all its parameters; None for any.

    Source: Kingma and Ba 2015, algorithm 1 (`adam`); Loshchilov and Hutter 2019, algorithm 2 (`adamw`); Pascanu et al.
    2013, algorithm 1 (clipping).
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        name: str,
        learning_rates: Sequence[float],
        momentum: float = 0.0,
        weight_decays: Sequence[float] | None = None,
        clip: float | None = None,
    ) -> None:
        self.parameters = list(parameters)
        self.momentum, self.clip, self.decoupled = momentum, clip, name == "adamw"
        self.update = self._sgd if name == "sgd" else self._adam
        device = self.parameters[0].device
        self.learning_rates = torch.tensor(learning_rates, dtype=torch.float64, device=device)
        decays = weight_decays if weight_decays is not None and any(weight_decays) else None
        self.decays = None if decays is None else torch.tensor(decays, dtype=torch.float64, device=device)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [] if name == "sgd" else [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0
        self._set_rates(1.0)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], multiplier: float = 1.0) -> None:
        """One update.

        Args:
            gradients: shaped like the parameters; None for one that the objective does not depend on, which stays.
            multiplier: of the learning rates, in this step.
        """
        self.steps += 1
        if multiplier != self.multiplier:
            self._set_rates(multiplier)
        if self.clip is not None:
            gradients = self._clipped(gradients, self.clip)
        if self.decays is not None:
            gradients = self._decayed(gradients, self.decays)
        self.update(gradients)

    def _set_rates(self, multiplier: float) -> None:
        self.multiplier = multiplier
        self.rates = [self._spread(self.learning_rates * multiplier, p) for p in self.parameters]

    @staticmethod
    def _spread(values: Tensor, like: Tensor) -> Tensor:
        """Float64 numbers [M], in the type of a parameter and to be multiplied with it."""
        return values.view(-1, *[1] * (like.ndim - 1)).to(like.dtype)

    def _clipped(self, gradients: Sequence[Tensor | None], longest: float) -> list[Tensor | None]:
        norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients if g is not None]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        share = (longest / (norm + CLIP_TERM)).clamp(max=1.0)
        return [None if g is None else g * share.view(-1, *[1] * (g.ndim - 1)) for g in gradients]

    def _decayed(self, gradients: Sequence[Tensor | None], decays: Tensor) -> list[Tensor | None]:
        """The gradients with the pull of weight decay; where it is decoupled, the parameters are pulled at once."""
        pulled: list[Tensor | None] = []
        for p, g in zip(self.parameters, gradients, strict=True):
            if g is not None and self.decoupled:
                p.mul_(self._spread(1 - self.learning_rates * self.multiplier * decays, p))
            pulled.append(g if g is None or self.decoupled else g + p * self._spread(decays, p))
        return pulled

    def _moving(self, gradients: Sequence[Tensor | None]) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
        """Place, parameter, gradient, first moment and rate of each parameter that has a gradient."""
        for place, (p, g) in enumerate(zip(self.parameters, gradients, strict=True)):
            if g is not None:
                yield place, p, g, self.first[place], self.rates[place]

    def _adam(self, gradients: Sequence[Tensor | None]) -> None:
        correction1 = 1 - BETA1**self.steps
        correction2 = 1 - BETA2**self.steps
        for place, p, g, m, rate in self._moving(gradients):
            v = self.second[place]
            m.lerp_(g, 1 - BETA1)
            v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            denominator = v.sqrt().div_(correction2**0.5).add_(DENOMINATOR_TERM)
            p.addcmul_(m / denominator, rate, value=-1 / correction1)

    def _sgd(self, gradients: Sequence[Tensor | None]) -> None:
        for _, p, g, m, rate in self._moving(gradients):
            m.mul_(self.momentum).add_(g)
            p.addcmul_(m, rate, value=-1)
