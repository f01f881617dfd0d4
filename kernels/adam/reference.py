"""Adam in plain torch, member by member: the definition."""

from __future__ import annotations

from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def adam(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    offsets: Tensor,
    steps: Tensor,
    learning_rates: Tensor,
) -> None:
    """One step in place; see `atras.kernels.adam`, whose arguments these are."""
    steps += 1
    bounds = offsets.tolist()
    for begin, end, t, rate in zip(bounds[:-1], bounds[1:], steps.tolist(), learning_rates.tolist(), strict=True):
        gradient, m, v = gradients[begin:end], first[begin:end], second[begin:end]
        m.lerp_(gradient, 1 - BETA1)
        v.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        denominator = (v.sqrt() / (1 - BETA2**t) ** 0.5).add_(EPSILON)
        parameters[begin:end].addcdiv_(m, denominator, value=-rate / (1 - BETA1**t))
