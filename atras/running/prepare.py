"""What comes before the first step: the device, the data on it, and the plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from atras.data.datasets import Dataset, load
from atras.engines.engine import DTYPES, Member
from atras.engines.fused import has_bf16, why_not, why_slow
from atras.environment import attack_backend, choose_device, total_memory
from atras.errors import InputError
from atras.experiment.protocol import Execution, Protocol
from atras.networks.network import Spec, make_spec
from atras.planning.calibration import speed
from atras.planning.grouping import make_groups
from atras.planning.machine import MEMORY_SHARE, Machine, choose_engine, reason_for
from atras.planning.plan import Plan
from atras.planning.predicted_seconds import add_source, predict

from .defence_source import source_candidate
from .task import ENGINES


class Prepared(NamedTuple):
    """What a run needs before its first step."""

    device: torch.device
    data: Dataset
    spec: Spec
    plan: Plan


def make_plan(protocol: Protocol, execution: Execution, config_plan: Mapping[str, Any] | None = None) -> Plan:
    """What `run` would do with the same arguments, with predicted seconds; nothing is trained.

    Raises:
        InputError: as `schedule.run`.
    """
    return prepare(protocol, execution, config_plan).plan


def prepare(protocol: Protocol, execution: Execution, config_plan: Mapping[str, Any] | None = None) -> Prepared:
    """Choose the device, load the data on it, and plan or take the recorded plan.

    Raises:
        InputError: as `schedule.run`.
    """
    device, data, spec = load_data(protocol, execution)
    if config_plan is not None:
        return Prepared(device, data, spec, Plan.from_dict(dict(config_plan), protocol))
    return Prepared(device, data, spec, _plan(protocol, execution, device, data, spec))


def load_data(protocol: Protocol, execution: Execution) -> tuple[torch.device, Dataset, Spec]:
    """Choose the device, load the data on it, and see what networks they take.

    Raises:
        InputError: as `schedule.run`.
    """
    device = choose_device(execution.device)
    attack_backend(device, DTYPES[protocol.precision])
    if device.type == "cuda":
        _exact_arithmetic()
    data = load(
        protocol.dataset,
        train_size=protocol.train_size,
        test_size=protocol.test_size,
        data_dir=execution.data_dir,
        download=execution.download,
        device=device,
    )
    protocol.check_classes(data.classes)
    return device, data, make_spec(protocol, data.image_shape, data.classes)


def _plan(
    protocol: Protocol,
    execution: Execution,
    device: torch.device,
    data: Dataset,
    spec: Spec,
    done: Collection[Member] = (),
) -> Plan:
    machine = Machine(
        kind=device.type,
        memory_bytes=execution.memory_bytes or int(MEMORY_SHARE * total_memory(device)),
        fused=why_not(device),
        bf16=has_bf16(device),
        threads=torch.get_num_threads(),
        fused_slow=why_slow() if device.type == "cpu" else "",
    )
    engine, precision = choose_engine(execution.engine, protocol.precision, spec, machine)
    resolved = protocol.replace(precision=precision)
    sizes = len(data.train.labels), len(data.test.labels)
    measured = speed(ENGINES[engine], spec, resolved, data.train, anew=execution.recalibrate)
    groups = make_groups(resolved, spec, *sizes, engine, machine, done)
    predicted = [predict(group, spec, resolved, *sizes, measured) for group in groups]
    if predicted and (source := source_candidate(resolved, spec)) is not None:
        predicted[0] = add_source(predicted[0], spec, resolved, source.hidden, sizes[0], measured)
    reason = reason_for(execution.engine, engine, machine)
    return Plan(str(device), engine, precision, tuple(predicted), reason)


def plan_again(
    protocol: Protocol,
    execution: Execution,
    device: torch.device,
    data: Dataset,
    spec: Spec,
    precision: str,
    done: Collection[Member],
) -> Plan:
    """A plan of what is left, in the precision that the run has, if this machine can do that."""
    if protocol.precision == "auto":
        with suppress(InputError):
            return _plan(protocol.replace(precision=precision), execution, device, data, spec, done)
    return _plan(protocol, execution, device, data, spec, done)


def _exact_arithmetic() -> None:
    """Full fp32 and repeatable results on a GPU, where cuDNN's defaults give neither."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
