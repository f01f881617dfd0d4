"""An exponential moving average of parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from atras.networks import Parameters


class Average:
    """The average of parameters over optimizer steps: what `torch.optim.swa_utils.AveragedModel` keeps with
    `get_ema_multi_avg_fn(decay)`. The first step of a phase is its beginning.

    Args:
        parameters: tensors by name, of any shape; as they are they are the average before any step.
        decay: share of the average that a step keeps.

    Source: Polyak and Juditsky 1992; Izmailov et al. 2018; with adversarial training Rebuffi et al. 2021, section 3.
    """

    def __init__(self, parameters: Parameters, decay: float) -> None:
        self.values = {name: values.detach().clone() for name, values in parameters.items()}
        self.decay = decay

    @torch.no_grad()
    def update(self, parameters: Parameters, step: int) -> None:
        """Take in the parameters after a step, the first of a phase being step 1."""
        for name, average in self.values.items():
            if step == 1:
                average.copy_(parameters[name])
            else:
                average.lerp_(parameters[name], 1 - self.decay)

    def set(self, name: str, values: Tensor) -> None:
        """Put values in the place of one average."""
        self.values[name].copy_(values)
