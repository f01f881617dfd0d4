"""The candidate whose adversarial images all others of a run are trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atras.engines import ENGINES
from atras.evaluation import Source
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Network, Spec
from atras.planning import Group, source_parts, tighter
from atras.torch_state import fixed_state
from atras.training import Watcher, attack_source

from .divided import ShortageError, shortage
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
        ShortageError: if there is no memory for one seed.
    """
    protocol = task.protocol
    candidate = source_candidate(protocol, task.spec)
    if candidate is None:
        return None
    place.reporter.note(f"defence source {candidate.name}: training, then attacking its training images")
    members = [Member(candidate, seed) for seed in protocol.seeds]
    left = list(source_parts(members, task.group, protocol, task.spec, task.machine, len(place.data.train)))
    signs: list[Tensor] = []
    with fixed_state(task.device):
        while left:
            reason = shortage(lambda: signs.append(_signs(left[0], task, place)))
            if not reason:
                left.pop(0)
                continue
            smaller = tighter(left[:1], protocol, task.spec, task.machine)
            if smaller is None:
                raise ShortageError(
                    f"memory: expected room for the defence's source {candidate.name} one seed at a time, found none "
                    f"({reason}); free some, or start anew with a lower --batch-size or --train-size"
                )
            place.reporter.note(f"defence source {candidate.name}: out of memory ({reason}); goes on in smaller parts")
            left[:1] = smaller
        return Source(candidate.name, torch.cat(signs), protocol.seeds)


def _signs(part: Group, task: GroupTask, place: Surroundings) -> Tensor:
    engine = ENGINES.get(part.engine)(task.spec, part.members, task.protocol, task.device)
    return attack_source(engine, place.data, task.protocol, part.evaluation_batch, _Stoppable(place.stop))


class _Stoppable(Watcher):
    def __init__(self, asked: Callable[[], bool]) -> None:
        self.stop = asked  # type: ignore[method-assign]
