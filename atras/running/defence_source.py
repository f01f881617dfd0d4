"""The candidates whose adversarial images others of a run are trained on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from atras.defences import EnsembleTraining
from atras.engines import ENGINES
from atras.evaluation import AllSigns, Source, Sources, joined
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Network, Spec
from atras.planning import Group, source_parts, tighter
from atras.storage import remove_file
from atras.torch_state import fixed_state
from atras.training import Snapshot, Watcher, attack_source, checkpoint

from .divided import ShortageError, shortage
from .task import GroupTask, snapshot_in
from .unit import Surroundings, next_checkpoint

PREFIX = "source-"
"""Begins the names of the source's checkpoints."""


def source_candidates(protocol: Protocol, spec: Spec) -> tuple[Candidate, ...]:
    """The candidates whose adversarial images others train on; none where each trains on its own.

    Raises:
        InputError: if the run has not those that its defence names, or too few.
    """
    by_size = sorted(protocol.candidates, key=lambda candidate: Network(spec, candidate).parameter_count)
    if isinstance(protocol.defence, EnsembleTraining):
        return protocol.defence.chosen(by_size)
    if protocol.defence.source == "own":
        return ()
    if protocol.defence.source == "smallest":
        return (by_size[0],)
    named = {candidate.name: candidate for candidate in protocol.candidates}
    return (named.get(protocol.defence.source) or Candidate.parse(protocol.defence.source),)


def defence_source(task: GroupTask, place: Surroundings) -> Source | Sources | None:
    """Train and attack the candidates that the defence of others learns from, from checkpoints if there are any.

    Args:
        task: any of the run: its engine, evaluation batch and folder are taken.
        place: where to compute.

    Raises:
        Interrupted: if the run was asked to stop.
        ShortageError: if there is no memory for one seed.
        InputError: if the checkpoint is damaged, or cannot be written.
    """
    found = [_source(candidate, task, place) for candidate in source_candidates(task.protocol, task.spec)]
    if task.protocol.defence.others:
        return Sources(tuple(found), task.protocol.defence.others)
    return found[0] if found else None


def _source(candidate: Candidate, task: GroupTask, place: Surroundings) -> Source:
    """One of them, with its signs."""
    protocol = task.protocol
    place.reporter.note(f"defence source {candidate.name}: training, then attacking its training images")
    members = [Member(candidate, seed) for seed in protocol.seeds]
    machine = dataclasses.replace(task.machine, streams=place.data.streamed)
    group = _group_for(candidate, task)
    left = list(source_parts(members, group, protocol, task.spec, machine, len(place.data.train)))
    signs: list[AllSigns] = []
    with fixed_state(task.device):
        while left:
            reason = shortage(lambda: signs.append(_signs(left[0], task, place)))
            if not reason:
                left.pop(0)
                continue
            smaller = tighter(left[:1], protocol, task.spec, machine)
            if smaller is None:
                raise ShortageError(
                    f"memory: expected room for the defence's source {candidate.name} one seed at a time, found none "
                    f"({reason}); free some, or start anew with a lower --batch-size or --train-size"
                )
            place.reporter.note(f"defence source {candidate.name}: out of memory ({reason}); goes on in smaller parts")
            left[:1] = smaller
        return Source(candidate.name, joined(signs), protocol.seeds)


def _group_for(candidate: Candidate, task: GroupTask) -> Group:
    """A group whose engine can compute the source: that of the others may take other layers alone, or modules alone."""
    if not ENGINES.get(task.group.engine).refusal(task.spec, [candidate], task.device.type):
        return task.group
    return dataclasses.replace(task.group, engine="modules" if candidate.complete else "loop")


def _signs(part: Group, task: GroupTask, place: Surroundings) -> AllSigns:
    watcher = _Kept(task, place, part.members)
    precise = task.protocol.precision if task.protocol.precision in ENGINES.get(part.engine).precisions else "fp32"
    protocol = task.protocol.replace(precision=precise)
    engine = ENGINES.get(part.engine)(task.spec, part.members, protocol, task.device)
    return attack_source(engine, place.data, protocol, part.evaluation_batch, watcher, watcher.restored(), part.chunk)


def forget_source(folder: Path) -> None:
    """Delete the checkpoints of a defence's source: no group needs it any more."""
    for path in (folder / checkpoint.FOLDER).glob(f"{PREFIX}*.safetensors"):
        remove_file(path)
    checkpoint.remove_folder_if_empty(folder / checkpoint.FOLDER)


class _Kept(Watcher):
    """Keeps where the source stands in a checkpoint of its own, until the run is finished."""

    def __init__(self, task: GroupTask, place: Surroundings, members: Sequence[Member]) -> None:
        name = f"{PREFIX}{checkpoint.key_of(members)}.safetensors"
        self._path = None if task.folder is None else task.folder / checkpoint.FOLDER / name
        self._place, self._every = place, task.checkpoint_every
        self._identity = {
            "precision": task.protocol.precision, "protocol_hash": task.protocol.hash,
            "members": [member.name for member in members],
        }  # fmt: skip
        self.keeps = self._path is not None
        self._next = time.perf_counter() + self._every

    def restored(self) -> Snapshot | None:
        """Where an earlier process kept the source."""
        if self._path is None or not self._path.exists():
            return None
        document, tensors = checkpoint.read(self._path)
        if any(document.get(name) != value for name, value in self._identity.items()):
            return None
        return snapshot_in(self._path, document, tensors)

    def due(self) -> bool:
        return self.keeps and time.perf_counter() >= self._next

    def stop(self) -> bool:
        return self._place.stop()

    def keep(self, snapshot: Snapshot) -> None:
        if self._path is not None:
            begin = time.perf_counter()
            checkpoint.write(self._path, self._identity | snapshot.document, snapshot.tensors)
            self._next = next_checkpoint(self._every, begin)
