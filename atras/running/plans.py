"""The plan of a run for a machine, with predicted seconds; and whether a recorded one can be computed here."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from contextlib import suppress

import torch

from atras.data import Dataset
from atras.engines import why_not, why_slow
from atras.environment import total_memory, why_no_gpu
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.kernels.backends import bf16
from atras.networks import Member, Spec, Variant, members_of
from atras.planning import (
    Group,
    Machine,
    Plan,
    Planned,
    Training,
    images_line,
    make_groups,
    memory_line,
    precision_reason,
    shared_trainings,
    spec_of,
    threads_line,
    transfer_bytes,
    transfer_parts,
    united,
    why_unfit,
)
from atras.planning import memory_cap as cap_of
from atras.torch_state import threads

from .defence_source import sources_of
from .engine_shares import Share, engine_shares, why_not_fused
from .predicted import predicted_group, predicted_training
from .speeds import Speeds
from .variants import bundles, group_protocol, of_variant


def plan_for(
    protocol: Protocol,
    execution: Execution,
    device: torch.device,
    data: Dataset,
    spec: Spec,
    done: Collection[Member] = (),
    machine: Machine | None = None,
    speeds: Speeds | None = None,
) -> Plan:
    """The plan for a machine, this one where none is given, with seconds by its speeds."""
    machine = machine or machine_for(execution, device, data)
    speeds = speeds or Speeds(data.train, anew=execution.recalibrate)
    planned: list[Planned] = []
    shares: list[Share] = []
    trainings: list[Training] = []
    sizes = len(data.train), len(data.test)
    for variants in bundles(protocol, spec):
        own = group_protocol(protocol, variants[0], len(data.test))
        if protocol.only:
            those = dict.fromkeys(candidate for candidate, variant in protocol.pairs if variant in variants)
            own = own.replace(candidates=tuple(those))
            absent = set(members_of(own.candidates, own.seeds, variants)) - set(protocol.members)
            done = [*done, *absent]
        shape = spec_of(own, spec)
        new = engine_shares(execution.engine, own, shape, machine, len(protocol.seeds) * len(variants))
        made = [each for share in new for each in _groups(share, own, shape, sizes, machine, done, variants)]
        trainings += sources_of(made, sizes, machine) if made else []
        planned += made
        shares += [share for share in new if share not in shares]
    if execution.shard is None:  # shards have nobody to share with
        planned, shared = shared_trainings(planned, sizes, machine)
        trainings += shared
    groups = [predicted_group(each, sizes, speeds) for each in planned]
    priced = [predicted_training(training, planned, sizes, speeds) for training in united(trainings)]
    engine, precision, *_ = shares[0]
    resolved = protocol.replace(precision=precision)
    no_gpu = why_no_gpu() if execution.device == "auto" else ""
    layered = [share for share in shares if share.layered]
    not_fused = dict.fromkeys(why_not_fused(share, execution.engine, apart=len(layered) > 1) for share in layered)
    arithmetic = precision_reason(protocol.precision, engine, precision, machine) if layered else ""
    transfer = predicted_transfer_bytes(groups, resolved, spec, machine)
    reason = "; ".join(filter(None, [no_gpu, *not_fused]))
    reasons = (reason, arithmetic, limit_lines(execution, device, data), transfer, machine.threads)
    return Plan(str(device), engine, precision, tuple(groups), *reasons, trainings=tuple(priced))


def _groups(
    share: Share,
    protocol: Protocol,
    spec: Spec,
    sizes: tuple[int, int],
    machine: Machine,
    done: Collection[Member],
    variants: Sequence[Variant],
) -> list[Planned]:
    """The groups of one engine."""
    resolved = protocol.replace(precision=share.precision)
    own = set(share.candidates)
    others = [each for each in members_of(protocol.candidates, protocol.seeds, variants) if each.candidate not in own]
    groups = make_groups(resolved, spec, *sizes, share.engine, machine, [*done, *others], variants)
    return [Planned(group, resolved, spec) for group in groups]


def predicted_transfer_bytes(groups: Sequence[Group], protocol: Protocol, spec: Spec, machine: Machine) -> int | None:
    """Most memory at once in the transfer between the members of these groups; None without a transfer."""
    if not protocol.tries_other_networks or not groups:
        return None
    needs = []
    for variant in protocol.variants:
        own = protocol.of(variant)
        shape = spec_of(own, spec)
        parts = transfer_parts(of_variant(groups, variant), own, shape, machine)
        needs += [transfer_bytes(parts, own, shape, machine.memory_bytes)] if parts else []
    return max(needs)


def plan_again(
    protocol: Protocol,
    execution: Execution,
    device: torch.device,
    data: Dataset,
    spec: Spec,
    choices: Sequence[tuple[str, str]],
    done: Collection[Member] = (),
) -> Plan:
    """A plan of what is left, with the first engine and precision that this machine can do.

    Args:
        protocol, execution, device, data, spec: of the run.
        choices: engines and precisions, the best first; where none can be done it is the first one's error that counts.
        done: members to leave out.

    Raises:
        InputError: if this machine can do none of them, or has too little memory.
    """
    machine = machine_for(execution, device, data)
    chosen = choices[0]
    for engine, precision in choices:
        with suppress(InputError):
            for one in protocol.plain:
                engine_shares(engine, one.replace(precision=precision), spec_of(one, spec), machine)
            chosen = engine, precision
            break
    place, resolved = dataclasses.replace(execution, engine=chosen[0]), protocol.replace(precision=chosen[1])
    return plan_for(resolved, place, device, data, spec, done)


def unfit(
    plan: Plan,
    left: Collection[Group],
    protocol: Protocol,
    execution: Execution,
    device: torch.device,
    data: Dataset,
    spec: Spec,
) -> str:
    """Why what is left of a recorded plan cannot be computed here as it is; empty where it can."""
    machine = machine_for(execution, device, data)
    sizes = len(data.train), len(data.test)
    for variant in dict.fromkeys(group.variant for group in left):
        own = group_protocol(protocol, variant, sizes[1])
        groups = [group for group in left if group.variant == variant]
        if reason := why_unfit(plan, groups, own, spec_of(own, spec), sizes, machine, execution.engine):
            return reason
    return ""


def machine_for(execution: Execution, device: torch.device, data: Dataset) -> Machine:
    """What this machine can do for some images, whatever the candidates."""
    return Machine(
        kind=device.type,
        memory_bytes=memory_cap(execution, device),
        fused=why_not(device),
        bf16=bf16(device),
        threads=threads().amount,
        fused_slow=why_slow() if device.type == "cpu" else "",
        streams=data.streamed,
    )


def memory_cap(execution: Execution, device: torch.device) -> int:
    """Most bytes that what is computed at once may be predicted to take."""
    return cap_of(execution.memory_bytes, total_memory(device).amount)


def limit_lines(execution: Execution, device: torch.device, data: Dataset) -> tuple[str, ...]:
    """What limits memory and threads here, and whether the images are resident, a line each for people."""
    memory = memory_line(execution.memory_bytes, total_memory(device))
    images = images_line(data.streamed, data.image_bytes, memory_cap(execution, device))
    return (memory, images, *([] if device.type == "cuda" else [threads_line(threads())]))
