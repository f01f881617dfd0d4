"""No defence: networks are attacked as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atras.attacks import Passes

from .defence import Batch, Defence

if TYPE_CHECKING:
    from atras.networks import StepResult, Trainable


@dataclass(frozen=True, repr=False)
class NoDefence(Defence):
    """No second training: the networks are measured once, as their training left them, or as they were given."""

    name = "none"
    copies = False
    trains = False

    def cost(self, classes: int) -> Passes:  # noqa: ARG002 (nothing is made)
        return Passes()

    def step(self, networks: Trainable, batch: Batch) -> StepResult:
        raise NotImplementedError("without a defence there is no second training")
