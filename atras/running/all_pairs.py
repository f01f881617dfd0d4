"""Transfer between the members of a finished run, within its memory; where that runs out, in smaller parts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from atras.engines import why_not
from atras.errors import Interrupted
from atras.evaluation import Row, Rows, Transfer, phases_of, trials_of
from atras.networks import Member, member_name
from atras.planning import Group, Plan, tighter, transfer_parts
from atras.storage import remove_file
from atras.torch_state import fixed_state
from atras.training import checkpoint

from .divided import ShortageError, shortage
from .origins import Origins
from .task import SECONDS_BETWEEN_TELLS, GroupTask, Surroundings, next_checkpoint

PLACE = Path(checkpoint.FOLDER) / "transfer.safetensors"
"""Where the checkpoint of a transfer lies below the run's folder."""

WHAT = "transfer"
"""What a reporter is told of."""

ALMOST = 0.999
"""Most that is told to be done before all is."""

MEASURED = {"trained": "attacked_accuracy_before_true", "defended": "attacked_accuracy_after_white_box"}
"""By phase, the column of the table that is null where the network had diverged."""


def transfer_rows(
    task: GroupTask,
    place: Surroundings,
    plan: Plan,
    table: Sequence[Mapping[str, object]],
    short: Callable[[Row], None] = lambda _: None,
) -> Rows:
    """Adversarial test images of members, tried on others, as the protocol asks for it.

    Args:
        task: any of the run.
        place: this process; its networks hold every member.
        plan: as it was computed; of members of one variant.
        table: rows of the finished table.
        short: told of each shortage of memory after which the transfer goes on in smaller parts.

    Returns:
        Complete rows.

    Raises:
        Interrupted: if the run was asked to stop.
        ShortageError: if there is no memory for one member.
    """
    start = time.perf_counter()
    fine = {phase: set(_measured(plan, table, MEASURED[phase])) for phase in phases_of(task.protocol)}
    work = Transfer(place.data, task.protocol, trials_of(task.protocol, plan.groups[0].variant), fine)
    keeper = _Keeper(work, task, place)
    work.pause = keeper.pause
    place.reporter.part(WHAT, work.share)
    with fixed_state(task.device):
        _go_through(work, task, place, plan, short)
        rows = Rows(transfer=work.rows())
    place.reporter.part(WHAT, 1.0)
    count = sum(len(group.members) for group in plan.groups)
    seconds = keeper.before + time.perf_counter() - start
    rows.timings.append({"phase": "transfer", "members": count, "seconds": seconds, "steps": 0})
    return rows.completed(task.shared, None)


def forget_transfer(folder: Path) -> None:
    """Delete the checkpoint of the transfer: its rows are where they belong."""
    remove_file(folder / PLACE)
    checkpoint.remove_folder_if_empty((folder / PLACE).parent)


class _Keeper:
    """Keeps in a checkpoint what a transfer has counted, takes it from there, and tells how far it is.

    Raises:
        InputError: if the checkpoint is damaged.
    """

    def __init__(self, work: Transfer, task: GroupTask, place: Surroundings) -> None:
        self._work, self._every, self._stop = work, task.checkpoint_every, place.stop
        self._reporter, self._tell_next = place.reporter, 0.0
        self._path = None if task.folder is None else task.folder / PLACE
        self._identity = {"protocol_hash": task.protocol.hash}
        self.before, self._start = 0.0, time.perf_counter()
        self._next = self._start + self._every
        if self._path is not None and self._path.exists():
            document, tensors = checkpoint.read(self._path)
            if document.get("protocol_hash") == task.protocol.hash:
                self.before = document["seconds"]
                work.load(document["transfer"], tensors)

    def pause(self) -> None:
        """Keep what is counted when that is due, tell how far it is, and stop when asked."""
        stop = self._stop()
        if (now := time.perf_counter()) >= self._tell_next:
            self._tell_next = now + SECONDS_BETWEEN_TELLS
            self._reporter.part(WHAT, min(self._work.share, ALMOST))
        if self._path is not None and (stop or time.perf_counter() >= self._next):
            begin = time.perf_counter()
            seconds = self.before + begin - self._start
            document = self._identity | {"seconds": seconds, "transfer": self._work.to_dict()}
            checkpoint.write(self._path, document, self._work.tensors())
            self._next = next_checkpoint(self._every, begin)
        if stop:
            raise Interrupted


def _possible(group: Group, device: torch.device) -> Group:
    """A group as this machine can evaluate it: one that was finished elsewhere may have an engine that is not here."""
    return dataclasses.replace(group, engine="loop") if group.engine == "fused" and why_not(device) else group


def _measured(plan: Plan, table: Sequence[Mapping[str, object]], column: str) -> list[Member]:
    names = ("hidden_layers", "seed", "variant")
    known = {member_name(*(str(row[name]) for name in names)) for row in table if row[column] is not None}
    members = [member for group in plan.groups for member in group.members]
    return [member for member in members if member.name in known]


def _go_through(work: Transfer, task: GroupTask, place: Surroundings, plan: Plan, short: Callable[[Row], None]) -> None:
    """All that is left; after a shortage first with one part at a time, then in halves of parts and batches."""
    there = [_possible(group, task.device) for group in plan.groups]
    groups: tuple[Group, ...] | None = transfer_parts(there, task.protocol, task.spec, task.machine)
    cap = task.memory_bytes
    while groups is not None:
        origins = Origins(groups, work.fine, task, place)
        reason = shortage(partial(work.run, origins.parts, cap, origins))
        if not reason:
            return
        work.let_go()
        members = sum(len(group.members) for group in groups)
        if cap == 0:
            groups = tighter(groups, task.protocol, task.spec, task.machine)
        cap = 0
        if groups is not None:
            place.reporter.note(f"transfer: out of memory ({reason}); goes on in smaller parts")
            short({"group": None, "phase": "transfer", "members": members, "reason": reason})
    raise ShortageError(
        f"memory: expected room for the transfer of one member at a time, found none ({reason}); free some"
    )
