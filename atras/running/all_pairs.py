"""Transfer between all members of a finished run."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence

import torch

from atras.engines import ENGINES, Engine, why_not
from atras.evaluation import Part, Rows, transfer
from atras.networks import Member
from atras.planning import Group, Plan
from atras.torch_state import fixed_state

from .task import GroupTask, Surroundings, parts_of

MEASURED = {"trained": "attacked_accuracy_before_true", "defended": "attacked_accuracy_after_white_box"}
"""By phase, the column of the table that is null where the network had diverged."""


def transfer_rows(task: GroupTask, place: Surroundings, plan: Plan, table: Sequence[Mapping[str, object]]) -> Rows:
    """Every member's adversarial test images, tried on every member of its seed.

    Args:
        task: any of the run.
        place: this process; its networks hold every member.
        plan: as it was computed.
        table: rows of the finished table.

    Returns:
        Complete rows.

    Raises:
        Interrupted: if the run was asked to stop.
    """
    start = time.perf_counter()
    rows_of = {(row["hidden_layers"], row["seed"]): row for row in table}
    with fixed_state(task.device):
        # Nothing is trained: evaluation and attacks are alike in all precisions but fp64.
        protocol = task.protocol.replace(precision="fp64" if task.protocol.precision == "fp64" else "fp32")
        engines = [
            (ENGINES.get(group.engine)(task.spec, members, protocol, task.device), group.evaluation_batch)
            for group in map(functools.partial(_possible, device=task.device), plan.groups)
            for members in parts_of(group)
        ]

        def set_phase(phase: str) -> Iterator[Member]:
            for engine, _ in engines:
                for index, member in enumerate(engine.members):
                    if rows_of[member.candidate.name, member.seed][MEASURED[phase]] is not None:
                        _set(engine, index, phase)
                        yield member

        def _set(engine: Engine, index: int, phase: str) -> None:
            engine.set_parameters(index, place.networks.get(phase, engine.members[index]))

        parts = [Part(engine, batch) for engine, batch in engines]
        rows = Rows(transfer=transfer(parts, set_phase, place.data, task.protocol, place.stop))
    count = sum(len(group.members) for group in plan.groups)
    seconds = time.perf_counter() - start
    rows.timings.append({"phase": "transfer", "members": count, "seconds": seconds, "steps": 0})
    return rows.completed(task.shared, None)


def _possible(group: Group, device: torch.device) -> Group:
    """A group as this machine can evaluate it: one that was finished elsewhere may have an engine that is not here."""
    return dataclasses.replace(group, engine="loop") if group.engine == "fused" and why_not(device) else group
