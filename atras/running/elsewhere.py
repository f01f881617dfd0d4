"""The price of a run on machines that are not here: groups, makespan, memory and bytes moved, all predicted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from atras.errors import wrapped
from atras.evaluation import figures_kept, keeps_outcomes, outcome_rows, phases_of
from atras.experiment import Execution, Protocol
from atras.kernels.backends import Bf16
from atras.planning import GPUS, Group, Machine, Machines, Training, memory_cap, schedule
from atras.rounding import counted
from atras.torch_state import threads

from .data_place import DataPlace
from .plans import machine_for, plan_for
from .prepare import Prepared, load_data
from .progress import Reporter
from .said_before import cautions_before
from .shards import spread_over
from .speeds import ScaledSpeeds, Speeds, StatedSpeeds

ROW_BYTES = {"table": 190, "metrics": 130, "history": 50}
"""Bytes of a row between processes, in the mean of rows that FGSM and PGD give."""

OUTCOME_BYTES = 26
"""Bytes of an image's outcome, as its numbers are sent."""


class Price(NamedTuple):
    """What groups take on several machines.

    Args:
        makespan, ideal: seconds until the last machine is done, and if all had the same to do.
        tail: share of the makespan during which some machine waits.
        transfer: seconds afterwards, in which networks are tried on each other's images.
        memory_bytes: most that a group is predicted to take.
        data_bytes: of images and labels, to each machine.
        row_bytes, weight_bytes: of all rows and networks, to the one that writes them.
    """

    makespan: float
    ideal: float
    tail: float
    transfer: float
    memory_bytes: int
    data_bytes: int
    row_bytes: int
    weight_bytes: int


def price(
    groups: tuple[Group, ...],
    machines: int,
    protocol: Protocol,
    data_bytes: int,
    test_size: int,
    trainings: Sequence[Training] = (),
) -> Price:
    """The price of groups with predicted seconds, as if all of them waited for all first trainings.

    Args:
        groups: of a plan.
        machines: that take them, the longest first.
        protocol: of the run.
        data_bytes: of images and labels.
        test_size: images.
        trainings: first ones that groups need.
    """
    first = schedule([training.group.predicted_seconds or 0.0 for training in trainings], machines)
    transfers = [group.predicted_transfer_seconds or 0.0 for group in groups]
    own = [(group.predicted_seconds or 0.0) - more for group, more in zip(groups, transfers, strict=True)]
    times = schedule(own, machines)
    phases, members = len(phases_of(protocol)), sum(len(group.members) for group in groups)
    attacks, others = figures_kept(protocol)
    metrics, history = len(attacks) + others + 2 * phases, protocol.epochs + protocol.adversarial_epochs
    rows = ROW_BYTES["table"] + metrics * ROW_BYTES["metrics"] + history * ROW_BYTES["history"]
    outcomes = outcome_rows(protocol, test_size) if keeps_outcomes(protocol, test_size) else 0
    return Price(
        first.makespan + times.makespan, first.ideal + times.ideal, max(first.tail, times.tail),
        schedule(transfers, machines).makespan,
        max(group.predicted_bytes for group in groups), data_bytes, members * rows + outcomes * OUTCOME_BYTES,
        4 * phases * sum(group.parameters for group in groups),
    )  # fmt: skip


def lines_elsewhere(
    protocol: Protocol,
    execution: Execution,
    machines: Machines,
    told: float | None = None,
    reporter: Reporter | None = None,
    width: int = 80,
) -> list[str]:
    """What a run would take on machines that are not here; nothing is trained.

    Args:
        protocol, execution: of the run; of the latter the engine and the memory cap of a group.
        machines: which.
        told: FLOPs a second that one of them reaches; None for what is known.
        reporter: told of images that are decoded.
        width: columns of the terminal.

    Raises:
        InputError: as `run`.
    """
    execution = dataclasses.replace(execution, device="cpu", shard=None)
    load = partial(DataPlace.of(protocol, execution).load, progress=(reporter or Reporter()).decoding)
    device, data, spec = load_data(protocol, execution, load)
    machine = machine_there(execution, machines, machine_for(execution, device, data))
    speeds, source = _speeds(machines, told, Speeds(data.train, anew=execution.recalibrate))
    plan = plan_for(protocol, execution, device, data, spec, machine=machine, speeds=speeds)
    plan = dataclasses.replace(plan, device=machines.kind, limits=(), threads=machine.threads)
    prepared = Prepared(torch.device(device), data, spec, plan)
    alone = price(plan.groups, 1, protocol, 0, len(data.test), plan.trainings).makespan
    spread = spread_over(prepared, protocol, machine, machines.count).plan
    labels = 8 * (len(data.train) + len(data.test))
    there = data.image_bytes + labels, len(data.test)
    found = price(spread.groups, machines.count, protocol, *there, spread.trainings)
    head = [*cautions_before(protocol, data), spread.place]
    return wrapped([*head, *_told(found, machines, machine, len(spread.groups), alone, source, execution)], width)


def machine_there(execution: Execution, machines: Machines, here: Machine) -> Machine:
    """What one of some machines can do: a GPU all that this package has, another CPU what this one can."""
    if machines.gpu is None:
        return dataclasses.replace(here, threads=machines.threads)
    memory = memory_cap(execution.memory_bytes, GPUS[machines.gpu].memory_bytes)
    return Machine("cuda", memory, bf16=Bf16(True, True, "tensor cores"), streams=here.streams)


def _speeds(machines: Machines, told: float | None, here: Speeds) -> tuple[Speeds, str]:
    """The speeds to go by, and what they are based on: a line for people."""
    if told is not None:
        return StatedSpeeds(here.part, machines, told), f"speed: {told / 1e12:g} TFLOP/s as told by --machine-speed"
    if machines.gpu is not None:
        rates = GPUS[machines.gpu]
        text = (
            f"speed: the data sheet's ({rates.source}: {rates.bf16 / 1e12:.0f} TFLOP/s in bf16, {rates.fp32 / 1e12:g}"
        )
        return StatedSpeeds(here.part, machines, None), (
            f"{text} in fp32), which no program reaches: at least so many seconds. What one reaches is unknown: give "
            "--machine-speed TFLOPS"
        )
    threads_here = threads().amount
    if machines.threads == threads_here:
        return here, f"speed: this machine's, measured with its {counted(threads_here, 'thread')}"
    return ScaledSpeeds(here.part, machines.threads / threads_here, anew=here.anew), (
        f"speed: this machine's, measured with {counted(threads_here, 'thread')}, times "
        f"{machines.threads}/{threads_here} as if threads shared all work evenly; for another processor give "
        "--machine-speed TFLOPS"
    )


def _told(
    found: Price, machines: Machines, machine: Machine, groups: int, alone: float, source: str, execution: Execution
) -> list[str]:
    """A price, a line for each part of it."""
    count = machines.count
    whose = "as asked for by --memory" if execution.memory_bytes else (
        "of this machine's: give --memory" if machines.gpu is None else "of its memory"
    )  # fmt: skip
    used = found.ideal / found.makespan if found.makespan else 1.0
    lines = [
        f"{count} x {machines.name}: {counted(groups, 'group')}",
        source,
        f"makespan {_time(found.makespan)}, ideal {_time(found.ideal)} ({used:.0%} of the machines' time is used); "
        f"machines wait for the last one for at most {found.tail:.0%} of it; one alone takes {_time(alone)}",
        f"memory: a group takes at most {_size(found.memory_bytes)}, and may {_size(machine.memory_bytes)} ({whose})",
        f"moved: data {_size(found.data_bytes)} to each machine, {_size(found.data_bytes * count)} in all; back rows "
        f"about {_size(found.row_bytes)}, networks {_size(found.weight_bytes)}",
    ]
    if found.transfer:
        lines.append(f"transfer, after all groups: {_time(found.transfer)}")
    return lines


def _size(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.1f} MiB"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.3g} s"
