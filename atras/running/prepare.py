"""The preparation of a run: the device, the data on it, and the plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from atras.data import Dataset
from atras.engines import DTYPES
from atras.environment import attack_backend, choose_device
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import Network, Spec, inspect_factory
from atras.planning import Plan, shape_of
from atras.rounding import counted

from .data_place import DataPlace
from .defence_source import all_candidates
from .plans import limit_lines, plan_again, plan_for, unfit

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
        return Prepared(*here, plan_for(protocol, execution, *here))
    recorded = Plan.from_dict(dict(config_plan), protocol)
    if not (reason := unfit(recorded, recorded.groups, protocol, execution, *here)):
        return Prepared(
            *here, dataclasses.replace(recorded, device=str(here[0]), limits=limit_lines(execution, *here[:2]))
        )
    # In the recorded precision, where that is possible.
    precision = recorded.precision if protocol.precision == "auto" else protocol.precision
    choices = [(execution.engine, wanted) for wanted in (precision, protocol.precision)]
    plan = plan_again(protocol, execution, *here, choices)
    return Prepared(*here, dataclasses.replace(plan, replanned=reason))


def load_data(protocol: Protocol, execution: Execution, load: Load | None = None) -> tuple[torch.device, Dataset, Spec]:
    """Choose the device, load the data on it, and see what networks they take.

    Args:
        protocol, execution: as `run`.
        load: loads the data on a device; None for those that the protocol and the execution name.

    Raises:
        InputError: as `run`.
    """
    for one in protocol.plain:
        one.check_networks()
    device = choose_device(execution.device)
    attack_backend(device, DTYPES[protocol.precision])
    data = (load or DataPlace.of(protocol, execution).load)(device)
    spec, *_ = [_checked_spec(one, data) for one in protocol.plain]
    return device, data, spec


def _checked_spec(protocol: Protocol, data: Dataset) -> Spec:
    """The networks' shape, once nothing speaks against them on these data."""
    protocol.check_classes(data.occurring.tolist())
    spec = make_spec(protocol, data.image_shape, data.classes)
    if protocol.trains:
        _check_trainable(protocol, spec, len(data.train))
    return spec


def _check_trainable(protocol: Protocol, spec: Spec, train_size: int) -> None:
    """Refuse modules of the user that cannot be trained, at all or on a batch of one image that there will be."""
    for name, factory in protocol.factories.items():
        if not inspect_factory(factory, spec.image_shape).trainable:
            raise InputError(
                f"network {name}: expected logits that depend on trainable parameters, got none; it cannot be trained, "
                "but attacked: see atras attack"
            )
    size = protocol.batch_size
    single = any(n and 1 in (size, n % size) for n in (train_size, protocol.defence.epoch_images(train_size)))
    for name, factory in protocol.factories.items() if single else ():
        if not inspect_factory(factory, spec.image_shape).trains_on_one:
            raise InputError(
                f"network {name}: expected to be trained on every batch, but it fails on one of a single image, which "
                f"the last batch of {counted(train_size, 'image')} is (batch normalisation?); give another "
                f"--batch-size (={size}) or --train-size"
            )


def make_spec(protocol: Protocol, image_shape: tuple[int, int, int], classes: int) -> Spec:
    """The shared part of a protocol's networks on images of this shape.

    Raises:
        InputError: if the stem or a candidate does not fit the images.
    """
    spec = shape_of(protocol, image_shape, classes)
    for candidate in protocol.candidates:
        Network(spec, candidate).places  # noqa: B018 (asking for the shapes refuses what does not fit)
    try:
        for candidate in all_candidates(protocol, spec)[len(protocol.candidates) :]:
            Network(spec, candidate).places  # noqa: B018
    except InputError as error:
        raise InputError(f"defence (={str(protocol.defence)!r}): its source does not fit the images: {error}") from None
    return spec
