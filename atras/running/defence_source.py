"""The candidate whose adversarial images all others of a run are trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from atras.engines import ENGINES
from atras.evaluation import Source
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Network, Spec
from atras.torch_state import fixed_state
from atras.training import Watcher, attack_source

from .task import GroupTask, Surroundings


def source_candidate(protocol: Protocol, spec: Spec) -> Candidate | None:
    """The candidate whose adversarial images all others train on; None where each trains on its own."""
    if protocol.defence.source == "own":
        return None
    if protocol.defence.source == "smallest":
        return min(protocol.candidates, key=lambda candidate: Network(spec, candidate).parameter_count)
    return Candidate.parse(protocol.defence.source)


def defence_source(task: GroupTask, place: Surroundings) -> Source | None:
    """Train and attack the candidate that the defence of all others learns from; a resumed run does so again.

    Args:
        task: any of the run: its engine and evaluation batch are taken.
        place: where to compute.

    Raises:
        Interrupted: if the run was asked to stop.
    """
    protocol, engine = task.protocol, ENGINES.get(task.group.engine)
    candidate = source_candidate(protocol, task.spec)
    if candidate is None:
        return None
    place.reporter.note(f"defence source {candidate.name}: training, then attacking its training images")
    members = [Member(candidate, seed) for seed in protocol.seeds]
    parts = [[member] for member in members] if engine.one_by_one else [members]
    batch, watcher = task.group.evaluation_batch, _Stoppable(place.stop)
    with fixed_state(task.device):
        engines = (engine(task.spec, part, protocol, task.device) for part in parts)
        signs = [attack_source(each, place.data, protocol, batch, watcher) for each in engines]
        return Source(candidate.name, torch.cat(signs), protocol.seeds)


class _Stoppable(Watcher):
    def __init__(self, asked: Callable[[], bool]) -> None:
        self.stop = asked  # type: ignore[method-assign]
