"""The second training of a group, as its defence has it: the weights it begins with, its batches, and what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atras.defences import Batch, Defence
from atras.engines import BatchStep, Engine
from atras.evaluation import AllSigns
from atras.networks import StepResult, Trainable

from .turns import turn_of

KEPT = "defence"
"""Prefix, in a snapshot's tensors, of what the defence keeps between batches."""


class Defending:
    """A defence at work on the members of an engine.

    Args:
        engine: of the group.
        defences: of each member, with a definite epsilon; they differ in nothing but `Defence.own`.
        epochs: of the second training.
        classes: as in `Batch`.
        others: signs [M, N, C, H, W] of the copies made on other networks, which come in turn with the members' own.
        in_range: as in `Batch`.
    """

    def __init__(
        self,
        engine: Engine,
        defences: Sequence[Defence],
        epochs: int,
        classes: Tensor | None,
        others: Sequence[AllSigns] = (),
        in_range: bool = False,
    ) -> None:
        self.engine, self.defence, self.epochs, self.classes = engine, defences[0], epochs, classes
        self.own = numbers_apart(defences, engine.device)
        self.others, self.in_range = others, in_range
        self.kept: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Give the members their initial weights, where the defence begins from scratch."""
        if self.defence.start == "scratch":
            for index, (member, network) in enumerate(zip(self.engine.members, self.engine.networks, strict=True)):
                self.engine.set_parameters(index, network.initial_state(member.seed, self.engine.dtype))

    def steps(self, epoch: int, first: int) -> BatchStep:
        """The function by which the defence trains on the batches of an epoch, of which `first` are done."""

        def step(engine: Trainable, images: Tensor, labels: Tensor, copied: Tensor, number: int) -> StepResult:
            place, count = first + number, len(self.others)
            made = count > 0 and turn_of(epoch, place, count) < count
            known = self.classes, self.epochs, self.kept, made, self.in_range, self.own
            batch = Batch(images, labels, copied, epoch, place, *known)
            return self.defence.step(engine, batch)

        return step

    def tensors(self) -> dict[str, Tensor]:
        """What the defence keeps, on the CPU, for `load`."""
        return {f"{KEPT}/{name}": values.detach().cpu().clone() for name, values in self.kept.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a snapshot's tensors."""
        own = {name: values for name, values in tensors.items() if name.startswith(f"{KEPT}/")}
        self.kept = {name.partition("/")[2]: values.to(self.engine.device) for name, values in own.items()}


def numbers_apart(defences: Sequence[Defence], device: torch.device) -> dict[str, Tensor]:
    """float64 [M] of each number that members may have of their own, by name, where they do."""
    each = {name: [defence.own[name] for defence in defences] for name in defences[0].own}
    return {
        name: torch.tensor(numbers, dtype=torch.float64, device=device)
        for name, numbers in each.items()
        if len(set(numbers)) > 1
    }
