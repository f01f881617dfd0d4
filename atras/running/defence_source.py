"""What candidates of a run take from each other: the defence's source before the groups, transfer after them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

from atras.engines.engine import Member
from atras.evaluation.recorder import Rows, Source
from atras.evaluation.transfer import Part, transfer
from atras.experiment.protocol import Protocol
from atras.networks.candidates import Candidate
from atras.networks.network import Parameters, Spec, parameter_count
from atras.planning.plan import Plan
from atras.training.stages import Watcher, attack_source

from .task import ENGINES, Common, parts_of

MEASURED = {"trained": "attacked_accuracy_before_true", "defended": "attacked_accuracy_after_white_box"}
"""By phase, the column of the table that is null where the network had diverged."""


def source_candidate(protocol: Protocol, spec: Spec) -> Candidate | None:
    """The candidate whose adversarial images all others train on; None where each trains on its own."""
    if protocol.defence_source == "own":
        return None
    if protocol.defence_source == "smallest":
        return min(protocol.candidates, key=lambda candidate: parameter_count(spec, candidate.hidden))
    return Candidate.parse(protocol.defence_source)


def defence_source(common: Common, plan: Plan) -> Source | None:
    """Train and attack the candidate that the defence of all others learns from; a resumed run does so again.

    Raises:
        Interrupted: if the run was asked to stop.
    """
    protocol = common.protocol
    candidate = source_candidate(protocol, common.spec)
    if candidate is None:
        return None
    common.reporter.note(f"defence source {candidate.name}: training, then attacking its training images")
    members = [Member(candidate, seed) for seed in protocol.seeds]
    parts = [[member] for member in members] if plan.engine == "loop" else [members]
    batch = min(group.evaluation_batch for group in plan.groups)
    engines = (ENGINES[plan.engine](common.spec, part, protocol, common.device) for part in parts)
    signs = [attack_source(engine, common.data, protocol, batch, _Stoppable(common.stop)) for engine in engines]
    return Source(candidate.name, torch.cat(signs), protocol.seeds)


class _Stoppable(Watcher):
    def __init__(self, asked: Callable[[], bool]) -> None:
        self.stop = asked  # type: ignore[method-assign]


def transfer_rows(common: Common, plan: Plan, table: Sequence[Mapping[str, object]]) -> Rows:
    """Every member's adversarial test images, tried on every member of its seed.

    Args:
        common: what the groups of the run share; its networks hold every member.
        plan: as it was computed.
        table: rows of the finished table.
    """
    start = time.perf_counter()
    rows_of = {(row["hidden_layers"], row["seed"]): row for row in table}

    def network(phase: str, member: Member) -> Parameters | None:
        measured = rows_of[member.candidate.name, member.seed][MEASURED[phase]] is not None
        return common.networks.get(phase, member) if measured else None

    parts = [
        Part(ENGINES[group.engine](common.spec, members, common.protocol, common.device), group.evaluation_batch)
        for group in plan.groups
        for members in parts_of(group)
    ]
    rows = Rows(transfer=transfer(parts, network, common.data, common.protocol, common.stop))
    count = sum(len(group.members) for group in plan.groups)
    seconds = time.perf_counter() - start
    rows.timings.append({"group": None, "phase": "transfer", "members": count, "seconds": seconds, "steps": 0})
    return rows
