"""The best epoch of each member, by its robust accuracy on training images held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atras.engines import Engine
from atras.evaluation import Score
from atras.experiment import Protocol

NETWORKS, EPOCHS, CORRECT = "selected", "selected-epoch", "selected-correct"
"""Begin the names of a selection's tensors in a snapshot."""


def selects_in(protocol: Protocol, stage: str) -> bool:
    """Whether an epoch is selected in a training: the last of the run, `adversarial` where there is a defence."""
    return protocol.selects and stage == ("adversarial" if protocol.defence.trains else "train")


class Selection:
    """The best epoch of each member so far, and the network as it was evaluated then; the earlier one of equals.

    An epoch counts where its network is right for more images than always answering one class is: below that accuracies
    say nothing of which epoch is the better one.

    Args:
        engine: the members.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        members = len(engine.members)
        self.epochs = torch.zeros(members, dtype=torch.int64)
        self.correct = torch.full((members,), -1, dtype=torch.int64)
        self.networks: list[dict[str, Tensor]] = [{} for _ in range(members)]

    def take(self, epoch: int, score: Score) -> None:
        """Keep the networks of an epoch that are better than those before, and than always answering one class."""
        one_class = int(score.class_n.max())
        for index, (correct, finite) in enumerate(zip(score.correct, score.finite.tolist(), strict=True)):
            if finite and correct > max(int(self.correct[index]), one_class):
                self.epochs[index], self.correct[index] = epoch, correct
                values = self.engine.evaluated_parameters(index)
                self.networks[index] = {name: each.cpu().contiguous() for name, each in values.items()}

    def put_back(self) -> None:
        """Give the members the networks that were kept; one without any stays as it is, that of its last epoch."""
        for index, values in enumerate(self.networks):
            if values:
                self.engine.set_parameters(index, values)

    def tensors(self) -> dict[str, Tensor]:
        """All of it, for `load`."""
        own = {
            f"{NETWORKS}/{member.name}/{name}": values
            for member, network in zip(self.engine.members, self.networks, strict=True)
            for name, values in network.items()
        }
        epochs = {
            f"{what}/{member.name}": values[index].clone()
            for index, member in enumerate(self.engine.members)
            for what, values in ((EPOCHS, self.epochs), (CORRECT, self.correct))
        }
        return own | epochs

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave, of these members and perhaps others."""
        for index, member in enumerate(self.engine.members):
            start = f"{NETWORKS}/{member.name}/"
            self.networks[index] = {
                name.removeprefix(start): values for name, values in tensors.items() if name.startswith(start)
            }
            self.epochs[index] = tensors[f"{EPOCHS}/{member.name}"]
            self.correct[index] = tensors[f"{CORRECT}/{member.name}"]


def kept_epochs(history: Sequence[Mapping[str, object]]) -> str:
    """Which epochs were kept, in a line for people; empty where none was selected."""
    chosen = [(row["phase"], row["epoch"]) for row in history if row.get("selected") is not None]
    kept = sorted(int(str(row["epoch"])) for row in history if row.get("selected"))
    if not kept:
        return ""
    last = max(int(str(epoch)) for _, epoch in chosen)
    span = f"epochs {kept[0]} to {kept[-1]}, the median {kept[len(kept) // 2]},"
    which = f"epoch {kept[0]}" if kept[0] == kept[-1] else span
    return f"{which} of {last} kept, by robust accuracy on training images held out"
