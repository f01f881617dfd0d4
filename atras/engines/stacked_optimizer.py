"""Adam and SGD over stacked parameters, with a learning rate a member."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BETA1, BETA2, DENOMINATOR_TERM = 0.9, 0.999, 1e-8


class StackedOptimizer:
    """Updates parameters [M, ...] in place; each member as torch.optim would update it alone.

    Args:
        parameters: stacked tensors, [M, ...] each.
        name: `adam` or `sgd`.
        learning_rates: one a member.
        momentum: of `sgd`.

    Source: Kingma and Ba 2015, algorithm 1 (`adam`).
    """

    def __init__(
        self, parameters: Sequence[Tensor], name: str, learning_rates: Sequence[float], momentum: float = 0.0
    ) -> None:
        self.parameters = list(parameters)
        self.momentum = momentum
        self.update = self._adam if name == "adam" else self._sgd
        rates = torch.tensor(learning_rates, dtype=torch.float64, device=self.parameters[0].device)
        self.rates = [rates.view(-1, *[1] * (p.ndim - 1)).to(p.dtype) for p in self.parameters]
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters] if name == "adam" else []
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One update with these gradients, shaped like the parameters."""
        self.steps += 1
        self.update(gradients)

    def _adam(self, gradients: Sequence[Tensor]) -> None:
        correction1 = 1 - BETA1**self.steps
        correction2 = 1 - BETA2**self.steps
        for p, g, m, v, rate in zip(self.parameters, gradients, self.first, self.second, self.rates, strict=True):
            m.lerp_(g, 1 - BETA1)
            v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            denominator = v.sqrt().div_(correction2**0.5).add_(DENOMINATOR_TERM)
            p.addcmul_(m / denominator, rate, value=-1 / correction1)

    def _sgd(self, gradients: Sequence[Tensor]) -> None:
        for p, g, m, rate in zip(self.parameters, gradients, self.first, self.rates, strict=True):
            m.mul_(self.momentum).add_(g)
            p.addcmul_(m, rate, value=-1)
