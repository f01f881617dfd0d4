"""What a callback is told of a run, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """A run that begins or goes on.

    Args:
        id: of the run, 16 hexadecimal digits: the same when it goes on in its folder.
        name: the last two parts of its folder's path; the data set's name where it is kept in memory.
        folder: of its results; None where it is kept in memory.
        protocol: what it computes, as `Protocol.to_dict` has it.
        protocol_hash: of that.
        version: of atras.
        members: how many it has.
        resumed: whether the callback was told of it before.
    """

    id: str
    name: str
    folder: Path | None
    protocol: Mapping[str, Any]
    protocol_hash: str
    version: str
    members: int
    resumed: bool


@dataclass(frozen=True)
class EpochRow:
    """An epoch of a member.

    Args:
        hidden_layers: name of its candidate.
        variant: name of its variant; empty in a run without axes.
        seed: of the member.
        phase: `train` or `adversarial`.
        epoch: from 1, in its phase.
        steps: optimizer steps of the epoch.
        figures: what was measured, by name: `mean_loss`, `running_accuracy`, and, where the run has them,
            `validation_robust_accuracy`, `test_accuracy`, and `train_accuracy_under_fgsm` and the like. Those that are
            null in the frames (of members that diverged) are left out.
    """

    hidden_layers: str
    variant: str
    seed: int
    phase: str
    epoch: int
    steps: int
    figures: Mapping[str, float]

    @property
    def member(self) -> str:
        """The member in words, such as `24-192 seed 0` or `24-192 learning_rate=0.003 seed 0`."""
        return member_name(self.hidden_layers, self.variant, self.seed)


def member_name(hidden_layers: object, variant: object, seed: object) -> str:
    """A member in words."""
    return " ".join(filter(None, [str(hidden_layers), str(variant), f"seed {seed}"]))


class Callback:
    """Base class of callbacks: told of a run as it goes, it does nothing.

    All methods are called in the process and thread of `run`, whoever computes. Each epoch of each member is told once,
    in their order, and so is each member's row of the table, also where a run is interrupted and goes on with the same
    callbacks in the same order: then it is told what was told to nobody yet. Only of a process that was killed while a
    row was told, that row comes again. A callback that raises an exception is told nothing more in this process; the
    run goes on.
    """

    def run_started(self, run: RunInfo) -> None:
        """A run begins, or goes on."""

    def epochs(self, rows: Sequence[EpochRow]) -> None:
        """Members have trained for an epoch: some or all of a group, a row each, in the midst of the run."""

    def members_finished(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows of the table (docs/results.md) of members that are done: trained, attacked and measured."""

    def run_ended(self, status: str) -> None:
        """The run is `finished`, `interrupted` or `failed`; nothing more is told. Close what is open."""
