"""Free adversarial training: every batch is trained on several times, and each time its perturbation moves on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from atras.attacks import Passes, spread
from atras.checks import number, one_of, whole

from .defence import Batch, Defence

if TYPE_CHECKING:
    from torch import Tensor

    from atras.networks import StepResult, Trainable

DELTA = "delta"
"""Name of the perturbation among what is kept."""


@dataclass(frozen=True, repr=False)
class Free(Defence):
    """Several steps on every batch, each on images + delta; delta, [B, C, H, W], moves by FGSM and is never reset.

    An epoch goes over the images once and has `replays` optimizer steps a batch: the paper, which divides its epochs by
    them, trains as long with a `replays`-th of the epochs.

    Args:
        replays: steps on each batch (m of the paper).
        epsilon: of training, and of each step; None for the run's.
        start: `scratch` for the initial weights, or `trained` for those that the first training led to.

    Source: Shafahi et al. 2019, "Adversarial training for free!", algorithm 1.
    """

    replays: int = 8
    epsilon: float | None = None
    start: str = field(default="scratch", kw_only=True)

    name = "free"
    own_numbers = True
    copies = False
    within_steps = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("replays", self.replays, 1, 10**4)
        one_of("start", self.start, ("scratch", "trained"))
        if self.epsilon is not None:
            number("epsilon", self.epsilon, 0.0, 1.0)

    @property
    def steps_a_batch(self) -> int:
        return self.replays

    @property
    def compared(self) -> bool:
        return True

    def at(self, epsilon: float) -> Self:
        return self if self.epsilon is not None else dataclasses.replace(self, epsilon=epsilon)

    @property
    def own(self) -> dict[str, float]:
        return {} if self.epsilon is None else {"epsilon": self.epsilon}

    @property
    def alike(self) -> Self:
        return dataclasses.replace(self, epsilon=None)

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (alike for any number of classes)
        return Passes(gradient=self.replays)

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        import torch

        from atras.networks import StepResult

        strength = spread(batch.own.get("epsilon", self.epsilon or 0.0), batch.images)
        size, *shape = batch.images.shape[-4:]
        kept = {} if batch.kept is None else batch.kept
        delta = kept.get(DELTA, batch.images.new_zeros(len(networks.members), 0, *shape))
        if delta.shape[1] < size:  # the first batch is the largest
            delta = torch.cat([delta, delta.new_zeros(len(delta), size - delta.shape[1], *shape)], 1)
        results = [self._once(networks, batch, delta[:, :size], strength) for _ in range(self.replays)]
        kept[DELTA] = delta
        losses = torch.stack([result.losses for result in results]).mean(0)
        return StepResult(losses, torch.stack([result.correct for result in results]).sum(0))

    def _once(self, networks: Trainable, batch: Batch, delta: Tensor, strength: float | Tensor) -> StepResult:
        """A step on the images and their perturbation, which then moves, in place, by the gradient before the step."""
        moved = batch.images + delta
        seen = moved.clamp(0, 1)
        result, gradients = networks.step_and_gradient(seen, batch.labels)
        # Where the image is clipped its perturbation changes nothing: there is no gradient.
        signs = gradients.sign().nan_to_num(nan=0.0) * (moved == seen)
        delta.add_(strength * signs).clamp_(-strength, strength)  # type: ignore[arg-type]  # as of torch, which takes both
        return result
