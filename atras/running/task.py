"""One group of the plan, with what may happen to it: it is kept, stopped, gone on with, divided."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atras.data.datasets import Dataset
from atras.engines.engine import KINDS, Engine, Member
from atras.engines.fused import FusedEngine
from atras.engines.loop import LoopEngine
from atras.engines.stack import StackEngine
from atras.errors import InputError
from atras.evaluation.recorder import Row, Rows, Source
from atras.experiment.protocol import Protocol
from atras.networks.network import Parameters, Spec
from atras.planning.plan import Group
from atras.training import checkpoint
from atras.training.checkpoint import Checkpoint
from atras.training.stages import DONE, TRAINED, Snapshot, Watcher, run_group, steps_done, steps_of
from atras.training.weights import PHASES, Networks

from .progress import Reporter

ENGINES: dict[str, type[Engine]] = {"loop": LoopEngine, "stack": StackEngine, "fused": FusedEngine}

OVERHEAD = 0.02
"""Most of a run's time that writing checkpoints may take; they are written less often where it would be more."""

ALLOCATION_FAILURES = ("DefaultCPUAllocator", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How torch says, in a plain RuntimeError, that there is no memory left."""


@dataclass(frozen=True)
class Common:
    """What the groups of a run share.

    Args:
        spec, data, protocol, device: of all members; the precision of the protocol is a definite one.
        folder: the run's; None for a run in memory, which has no checkpoints.
        checkpoint_every: seconds.
        networks: where trained networks go.
        source: whose adversarial images all members are trained on; None for each one's own.
        reporter: told of everything.
        stop: asked between calls whether to stop.
    """

    spec: Spec
    data: Dataset
    protocol: Protocol
    device: torch.device
    folder: Path | None
    checkpoint_every: float
    networks: Networks
    source: Source | None
    reporter: Reporter
    stop: Callable[[], bool]


def parts_of(group: Group) -> list[list[Member]]:
    """The members that one engine object takes."""
    return [[member] for member in group.members] if group.engine == "loop" else [list(group.members)]


class GroupRunner:
    """Computes one group: all its members at once, or one part after the other in engine loop.

    Args:
        common: what all groups share.
        index, total: number of the group, from 0, and of all.
        group: from the plan.
    """

    def __init__(self, common: Common, index: int, total: int, group: Group) -> None:
        self.common, self.index, self.total, self.group = common, index, total, group
        self.parts = parts_of(group)
        self.train_size = len(common.data.train.labels)
        self.path = None if common.folder is None else checkpoint.path_of(common.folder, group.members)
        self.rows = Rows()
        self.part = self.done = 0
        self.next_keep = time.perf_counter() + common.checkpoint_every

    def run(self) -> Rows:
        """The group's rows, from its checkpoint where there is one.

        Raises:
            Interrupted: if the run was asked to stop.
            InputError: if the checkpoint is damaged, or something cannot be written.
        """
        start, each = time.perf_counter(), steps_of(self.common.protocol, self.train_size)
        reporter, group = self.common.reporter, self.group
        snapshot = self._restored()
        reporter.group_started(self.index, self.total, group.label, len(group.members), len(self.parts) * each)
        if snapshot is not None:
            self._put_networks(snapshot)
            self.done = self.part * each + steps_done(snapshot, self.common.protocol, self.train_size)
            reporter.group_resumed(self.index, self.done)
        for part in range(self.part, len(self.parts)):
            self.part = part
            self.rows.extend(self._run_part(snapshot))
            snapshot = None
        _add_up_timings(self.rows)
        reporter.group_finished(self.index, time.perf_counter() - start)
        return self.rows

    def forget(self) -> None:
        """Delete the checkpoint: the group's rows are where they belong."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            _remove_if_empty(self.path.parent)

    def _run_part(self, snapshot: Snapshot | None) -> Rows:
        common = self.common
        engine = ENGINES[self.group.engine](common.spec, self.parts[self.part], common.protocol, common.device)
        return run_group(
            engine,
            common.data,
            common.protocol,
            evaluation_batch=self.group.evaluation_batch,
            watcher=_Keeper(self),
            snapshot=snapshot,
            source=common.source,
        )

    def keep(self, snapshot: Snapshot) -> None:
        """Write a checkpoint, and the networks when the part is done."""
        self._put_networks(snapshot)
        if self.path is None:
            return
        start = time.perf_counter()
        document = self._identity() | {
            "part": self.part, "rows": self.rows.to_dict(), "stage": snapshot.stage, "epoch": snapshot.epoch,
            "seconds": snapshot.seconds, "record": snapshot.record,
        }  # fmt: skip
        checkpoint.write(self.path, document, snapshot.tensors)
        end = time.perf_counter()
        every = self.common.checkpoint_every
        self.next_keep = end + (max(every, (end - start) / OVERHEAD) if every else 0)

    def _put_networks(self, snapshot: Snapshot) -> None:
        if snapshot.stage != DONE:
            return
        for phase, prefix in zip(PHASES, (TRAINED, KINDS[0]), strict=True):
            found = _networks(self.parts[self.part], snapshot, prefix)
            self.common.networks.put(phase, self.index, self.part if len(self.parts) > 1 else None, found)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must have in common with a group to be gone on with."""
        protocol = self.common.protocol
        return {
            "precision": protocol.precision, "protocol_hash": protocol.hash, "parts": len(self.parts),
            "members": [member.name for member in self.group.members],
        }  # fmt: skip

    def _restored(self) -> Snapshot | None:
        if self.path is None or not self.path.exists():
            return None
        document, tensors = checkpoint.read(self.path)
        odd = [name for name, value in self._identity().items() if document.get(name) != value]
        if odd:
            self.common.reporter.note(f"{self.group.label}: starts anew, its checkpoint is of another {odd[0]}")
            return None
        try:
            self.part, self.rows = document["part"], Rows(**document["rows"])
            values = {name: document[name] for name in ("stage", "epoch", "seconds", "record")}
            return Snapshot(**values, tensors=tensors)
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.path}: expected a checkpoint, found something else ({error}); delete it") from None


class _Keeper(Watcher):
    """Hears a part of a group."""

    def __init__(self, runner: GroupRunner) -> None:
        self.runner, self.common = runner, runner.common
        self.keeps = runner.path is not None or self.common.networks.wanted

    def progress(self, phase: str, steps: int, loss: float, accuracy: float) -> None:
        self.runner.done += steps
        shown = [value if math.isfinite(value) else None for value in (loss, accuracy)]
        self.common.reporter.progress(self.runner.index, phase, self.runner.done, *shown)

    def due(self) -> bool:
        return self.runner.path is not None and time.perf_counter() >= self.runner.next_keep

    def keep(self, snapshot: Snapshot) -> None:
        self.runner.keep(snapshot)

    def stop(self) -> bool:
        return self.common.stop()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on the device or off it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATION_FAILURES)


def free_memory() -> None:
    """Give back what an abandoned group held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def hand_on_checkpoints(folder: Path, groups: Sequence[Group]) -> None:
    """Give each new group its share of the checkpoint that has all its members.

    The old checkpoints stay, so that the run can be killed before the new division is recorded.
    """
    for path in sorted((folder / checkpoint.FOLDER).glob("group-*.safetensors")):
        found = checkpoint.read(path)
        for group in groups:
            names = [member.name for member in group.members]
            target = checkpoint.path_of(folder, group.members)
            joint = found.document.get("parts") == 1 and (group.engine != "loop" or len(names) == 1)
            if joint and set(names) <= set(found.document.get("members", ())) and not target.exists():
                checkpoint.write(target, *share(found, names))


def remove_other_checkpoints(folder: Path, groups: Iterable[Group]) -> None:
    """Delete the checkpoints of all but these groups."""
    wanted = {checkpoint.path_of(folder, group.members) for group in groups}
    for path in (folder / checkpoint.FOLDER).glob("group-*.safetensors"):
        if path not in wanted:
            path.unlink()
    _remove_if_empty(folder / checkpoint.FOLDER)


def share(whole: Checkpoint, names: Sequence[str]) -> Checkpoint:
    """The part of a checkpoint that belongs to some of its members, in their new order.

    Args:
        whole: of members that are computed together.
        names: `Member.name` of each.
    """
    places = [whole.document["members"].index(name) for name in names]
    wanted = set(names)
    tensors = {}
    for name, values in whole.tensors.items():
        if "/" not in name:
            tensors[name] = values[places] if name in ("losses", "correct") else values
        elif "/".join(name.split("/")[1:3]) in wanted:
            tensors[name] = values
    record = dict(whole.document["record"])
    record |= {key: [record[key][place] for place in places] for key in ("finite", "dead", "accuracies")}
    record["rows"] = {frame: _rows_of(rows, wanted) for frame, rows in record["rows"].items()}
    part = len(names) / len(whole.document["members"])
    record["rows"]["timings"] = [
        row | {"members": len(names), "seconds": row["seconds"] * part} for row in record["rows"]["timings"]
    ]
    seconds = whole.document["seconds"] * part
    return Checkpoint(whole.document | {"members": list(names), "record": record, "seconds": seconds}, tensors)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _rows_of(rows: list[Row], wanted: set[str]) -> list[Row]:
    return [row for row in rows if "seed" not in row or f"{row['hidden_layers']}/{row['seed']}" in wanted]


def _networks(members: Sequence[Member], snapshot: Snapshot, prefix: str) -> dict[Member, Parameters]:
    found: dict[Member, Parameters] = {}
    for member in members:
        start = f"{prefix}/{member.name}/"
        found[member] = {
            name.removeprefix(start): values for name, values in snapshot.tensors.items() if name.startswith(start)
        }
    return found


def _add_up_timings(rows: Rows) -> None:
    """One row a phase, where members ran one after the other."""
    timings: dict[object, Row] = {}
    for row in rows.timings:
        if row["phase"] in timings:
            total: Any = timings[row["phase"]]
            for key in ("members", "seconds", "steps"):
                total[key] += row[key]
        else:
            timings[row["phase"]] = dict(row)
    rows.timings = list(timings.values())
