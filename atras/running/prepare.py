"""The preparation of a run: the device, the data on it, and the plan."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from atras.data import Dataset
from atras.engines import DTYPES, ENGINES, FusedEngine, why_not, why_slow
from atras.environment import attack_backend, choose_device, total_memory, why_no_gpu
from atras.errors import InputError
from atras.evaluation import keeps_outcomes, outcomes_line
from atras.experiment import Execution, Protocol
from atras.kernels.backends import bf16
from atras.networks import Candidate, Member, Network, Spec, choose_stem
from atras.planning import (
    MEMORY_SHARE,
    Group,
    Machine,
    Plan,
    add_source,
    attack_speed,
    choose_engine,
    make_groups,
    memory_line,
    precision_reason,
    predict,
    reason_for,
    speed,
    threads_line,
    transfer_bytes,
    transfer_parts,
    why_impossible,
    why_unfit,
)
from atras.torch_state import threads

from .data_place import DataPlace
from .defence_source import source_candidate

Load = Callable[[torch.device], Dataset]


class Prepared(NamedTuple):
    """Device, data, shape of the networks and plan: all before a run's first step."""

    device: torch.device
    data: Dataset
    spec: Spec
    plan: Plan


def make_plan(protocol: Protocol, execution: Execution, config_plan: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a `run` with the same arguments, with predicted seconds; nothing is trained.

    Raises:
        InputError: as `run`.
    """
    return prepare(protocol, execution, config_plan).plan


def plan_lines(protocol: Protocol, execution: Execution, config_plan: Mapping[str, Any] | None = None) -> list[str]:
    """What a `run` with the same arguments says before it begins: cautions, and the plan.

    What its seconds take for granted stands below.

    Raises:
        InputError: as `run`.
    """
    prepared = prepare(protocol, execution, config_plan)
    lines = [*cautions_before(protocol, prepared.data), *prepared.plan.lines()]
    outcomes = outcomes_line(protocol, prepared.data.classes, len(prepared.data.test))
    lines += textwrap.wrap(outcomes, 80) if outcomes not in lines else []
    attacks = [*protocol.stronger_attacks, *protocol.transferred_attacks, getattr(protocol.defence, "attack", None)]
    names = dict.fromkeys(attack.name for attack in attacks if attack is not None and attack.drops_fooled)
    if names:
        text = f"as if no image were fooled by {', '.join(names)}: one that is costs no more, so it may take far less"
        lines += textwrap.wrap(text, 80)
    return lines


def cautions_before(protocol: Protocol, data: Dataset) -> list[str]:
    """Cautions that are known before a run begins, a line each: about its data, its attacks on them, and outcomes that
    it leaves out by itself."""
    made = (*protocol.stronger_attacks, *protocol.transferred_attacks)
    attacks = dict.fromkeys(text for attack in made for text in attack.cautions(data.classes))
    left_out = protocol.outcomes == "auto" and not keeps_outcomes(protocol, len(data.test))
    outcomes = [outcomes_line(protocol, data.classes, len(data.test))] if left_out else []
    return [*data.cautions, *attacks, *outcomes]


def prepare(
    protocol: Protocol,
    execution: Execution,
    config_plan: Mapping[str, Any] | None = None,
    load: Load | None = None,
) -> Prepared:
    """Choose the device, load the data on it, and plan or take the recorded plan.

    Args:
        protocol, execution, config_plan: as `run`.
        load: as `load_data`.

    Raises:
        InputError: as `run`.
    """
    here = load_data(protocol, execution, load)
    if config_plan is None:
        return Prepared(*here, _plan(protocol, execution, *here))
    recorded = Plan.from_dict(dict(config_plan), protocol)
    if not (reason := unfit(recorded, recorded.groups, protocol, execution, *here)):
        return Prepared(
            *here, dataclasses.replace(recorded, device=str(here[0]), limits=limit_lines(execution, here[0]))
        )
    # In the recorded precision, where that is possible.
    precision = recorded.precision if protocol.precision == "auto" else protocol.precision
    choices = [(execution.engine, wanted) for wanted in (precision, protocol.precision)]
    plan = plan_again(protocol, execution, *here, choices)
    return Prepared(*here, dataclasses.replace(plan, replanned=reason))


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
    machine = _machine(protocol, execution, device, spec)
    sizes = len(data.train), len(data.test)
    return why_unfit(plan, left, protocol, spec, sizes, machine, execution.engine)


def load_data(protocol: Protocol, execution: Execution, load: Load | None = None) -> tuple[torch.device, Dataset, Spec]:
    """Choose the device, load the data on it, and see what networks they take.

    Args:
        protocol, execution: as `run`.
        load: loads the data on a device; None for those that the protocol and the execution name.

    Raises:
        InputError: as `run`.
    """
    protocol.check_networks()
    device = choose_device(execution.device)
    attack_backend(device, DTYPES[protocol.precision])
    data = (load or DataPlace.of(protocol, execution).load)(device)
    protocol.check_classes(data.occurring.tolist())
    return device, data, make_spec(protocol, data.image_shape, data.classes)


def make_spec(protocol: Protocol, image_shape: tuple[int, int, int], classes: int) -> Spec:
    """The shared part of a protocol's networks on images of this shape.

    Raises:
        InputError: if the stem or a candidate does not fit the images.
    """
    spec = Spec(
        image_shape=image_shape,
        classes=classes,
        stem=choose_stem(image_shape) if protocol.stem == "auto" else protocol.stem,
        activation=protocol.activation,
        initialisation=protocol.initialisation,
        head_rate256=round(protocol.head_dropout * 256),
        stem_auto=protocol.stem == "auto",
    )
    for candidate in protocol.candidates:
        Network(spec, candidate).places  # noqa: B018 (asking for the shapes refuses what does not fit)
    try:
        for candidate in all_candidates(protocol, spec)[len(protocol.candidates) :]:
            Network(spec, candidate).places  # noqa: B018
    except InputError as error:
        raise InputError(f"defence (={str(protocol.defence)!r}): its source does not fit the images: {error}") from None
    return spec


def _machine(protocol: Protocol, execution: Execution, device: torch.device, spec: Spec) -> Machine:
    """What this machine can do for a run."""
    return Machine(
        kind=device.type,
        memory_bytes=memory_cap(execution, device),
        fused=why_not(device) or FusedEngine.refusal(spec, all_candidates(protocol, spec), device.type),
        bf16=bf16(device),
        threads=threads().amount,
        fused_slow=why_slow() if device.type == "cpu" else "",
    )


def _plan(
    protocol: Protocol,
    execution: Execution,
    device: torch.device,
    data: Dataset,
    spec: Spec,
    done: Collection[Member] = (),
) -> Plan:
    machine = _machine(protocol, execution, device, spec)
    engine, precision = choose_engine(execution.engine, protocol.precision, has_convolutions(protocol, spec), machine)
    if refused := ENGINES.get(engine).refusal(spec, all_candidates(protocol, spec), device.type):
        raise InputError(f"engine (={engine}): {refused}; use another engine")
    resolved = protocol.replace(precision=precision)
    sizes = len(data.train.labels), len(data.test.labels)
    measured = speed(ENGINES.get(engine), spec, resolved, data.train, anew=execution.recalibrate)
    groups = make_groups(resolved, spec, *sizes, engine, machine, done)
    made = [*resolved.stronger_attacks, *resolved.transferred_attacks]
    attacks = dict.fromkeys(part for attack in made for part in attack.parts)
    beside = {
        attack: attack_speed(ENGINES.get(engine), spec, resolved, data.train, attack, anew=execution.recalibrate)
        for attack in attacks
    }
    predicted = [predict(group, spec, resolved, *sizes, measured, beside) for group in groups]
    if predicted and (source := source_candidate(resolved, spec)) is not None:
        predicted[0] = add_source(predicted[0], Network(spec, source), resolved, sizes[0], measured)
    no_gpu = why_no_gpu() if execution.device == "auto" else ""
    reason = "; ".join(filter(None, [no_gpu, reason_for(execution.engine, engine, machine)]))
    arithmetic = precision_reason(protocol.precision, engine, precision, machine)
    limits = limit_lines(execution, device)
    transfer = predicted_transfer_bytes(predicted, resolved, spec, machine)
    reasons = (reason, arithmetic, limits, transfer, machine.threads)
    return Plan(str(device), engine, precision, tuple(predicted), *reasons)


def predicted_transfer_bytes(groups: Sequence[Group], protocol: Protocol, spec: Spec, machine: Machine) -> int | None:
    """Most memory at once in the transfer between the members of these groups; None without a transfer."""
    if not protocol.tries_other_networks or not groups:
        return None
    return transfer_bytes(transfer_parts(groups, protocol, spec, machine), protocol, spec, machine.memory_bytes)


def memory_cap(execution: Execution, device: torch.device) -> int:
    """Most bytes that what is computed at once may be predicted to take."""
    return execution.memory_bytes or int(MEMORY_SHARE * total_memory(device).amount)


def limit_lines(execution: Execution, device: torch.device) -> tuple[str, ...]:
    """What limits memory and threads here, a line each for people."""
    memory = memory_line(execution.memory_bytes, total_memory(device))
    return (memory,) if device.type == "cuda" else (memory, threads_line(threads()))


def all_candidates(protocol: Protocol, spec: Spec) -> list[Candidate]:
    """Those of a protocol, and the one whose copies its defence takes."""
    source = source_candidate(protocol, spec)
    return [*protocol.candidates, *([] if source is None else [source])]


def has_convolutions(protocol: Protocol, spec: Spec) -> bool:
    """Whether any network of a run computes on images behind its first layer."""
    networks = (Network(spec, candidate) for candidate in all_candidates(protocol, spec))
    return any(len(place.outputs) == 3 for network in networks for place in network.hidden)


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
    machine, candidates = _machine(protocol, execution, device, spec), all_candidates(protocol, spec)
    chosen = choices[0]
    for choice in choices:
        with suppress(InputError):
            engine, precision = choose_engine(*choice, has_convolutions(protocol, spec), machine)
            if not why_impossible(engine, precision, spec, candidates, machine):
                chosen = choice
                break
    place, resolved = dataclasses.replace(execution, engine=chosen[0]), protocol.replace(precision=chosen[1])
    return _plan(resolved, place, device, data, spec, done)
