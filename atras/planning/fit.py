"""Whether the plan of an earlier run can be computed on this machine."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from atras.engines import ENGINES
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Spec
from atras.rounding import counted

from .grouping import group_bytes
from .machine import Machine, choose_engine
from .plan import Group, Plan


def why_unfit(
    plan: Plan,
    left: Collection[Group],
    protocol: Protocol,
    spec: Spec,
    sizes: tuple[int, int],
    machine: Machine,
    asked: str,
) -> str:
    """Why what is left of a recorded plan is not for this machine, in a few words; empty where it can be computed.

    Args:
        plan: as a run recorded it.
        left: its groups that are still to be computed.
        protocol, spec: of the run.
        sizes: training and test images.
        machine: this one.
        asked: the engine that was asked for, by name or `auto`.
    """
    if not left:
        return ""
    if plan.device.partition(":")[0] != machine.kind:
        return f"it is for device {plan.device}, this is {machine.kind}"
    for engine, precision in dict.fromkeys((group.engine, group.precision) for group in left):
        members = {member.candidate: None for group in left if group.engine == engine for member in group.members}
        if reason := why_impossible(engine, precision, spec, list(members), machine):
            return reason
        if lacking := ENGINES.get(engine).lacks(protocol, machine.kind):
            return f"engine {engine}: {lacking}"
        if asked == "auto" and engine == "fused" and machine.fused_slow and precision != "bf16":
            return machine.fused_slow
        shared = ENGINES.get(engine).any_depths and machine.kind == "cpu"
        if shared and plan.threads and plan.threads != machine.threads:
            return f"it is for {counted(plan.threads, 'thread')}, here: {machine.threads}"
    if machine.streams and not all(group.chunk for group in left):
        return "it is for images that are resident, here they are streamed"
    most = max(group_bytes(group, protocol, spec, *sizes, machine) for group in left)
    if most > machine.memory_bytes:
        return f"a group needs {most / 2**20:.0f} MiB, here it may need {machine.memory_bytes / 2**20:.0f} MiB"
    return ""


def why_impossible(engine: str, precision: str, spec: Spec, candidates: Sequence[Candidate], machine: Machine) -> str:
    """Why an engine cannot train networks in a precision here; empty where it can."""
    try:
        choose_engine(engine, precision, False, machine)
    except InputError as error:
        return str(error).partition(";")[0]  # what follows is advice to who asked for it
    refused = ENGINES.get(engine).refusal(spec, candidates, machine.kind)
    return f"engine {engine}: {refused}" if refused else ""
