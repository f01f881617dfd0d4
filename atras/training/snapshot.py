"""Where a group stands: the stages that there are, and snapshots within them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atras.evaluation import PREFIX
from atras.experiment import Protocol

STAGES = ("train", "measure_trained", "adversarial", "measure_defended")
"""The stages of a group, in their order."""

DONE = "done"
"""The stage of a group that has nothing left to do."""

TRAINED = "trained"
"""Prefix, in a snapshot's tensors, of the parameters that the first training led to."""

SIGNS = f"{PREFIX}signs-"
"""Prefix, in a snapshot's tensors, of the signs of an attack."""


def stages_of(protocol: Protocol) -> tuple[str, ...]:
    """Those of `STAGES` that a run has: without a defence the first two, of finished networks the second alone."""
    return STAGES[0 if protocol.trains else 1 : None if protocol.defence.trains else 2]


@dataclass(frozen=True)
class Snapshot:
    """The state of a group; a run that goes on from it gives bitwise what it would have given.

    Args:
        stage: the one under way, of `STAGES`, or `DONE`.
        epoch: finished epochs of it.
        seconds: spent in it.
        record: what was measured so far, as JSON values.
        tensors: the engine's state, the trained parameters, the losses and correct predictions, [M, S], of the batches
            trained on in the unfinished epoch, what the defence keeps between them, where evaluations under way stand,
            and signs that took long to make.
    """

    stage: str
    epoch: int
    seconds: float
    record: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def document(self) -> dict[str, Any]:
        """All but the tensors, as JSON values (with NaN and bytes)."""
        return {name: value for name, value in vars(self).items() if name != "tensors"}
