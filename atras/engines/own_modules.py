"""Which engine computes which modules of a user: one by one, or those of one architecture in a stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Spec, device_of, dtype_of, inspect_factory

from .engine import Engine
from .module_stack import ModuleStackEngine, alike_logits, architecture, why_not_stacked
from .modules import ModulesEngine


def modules_engine(kind: str, spec: Spec, candidate: Candidate, seeds: int) -> str:
    """The name of the engine that is best for a module of the user.

    A stack saves launches, which is worth it on a GPU and not on a CPU: a rule, never a timing.

    Args:
        kind: of device, `cpu` or `cuda`.
        spec: of the run.
        candidate: the module.
        seeds: how many members it has.
    """
    stacked = kind == "cuda" and seeds > 1 and not why_not_stacked(spec, candidate)
    return (ModuleStackEngine if stacked else ModulesEngine).name


@dataclass(frozen=True)
class _Finished:
    """A finished module that is attacked where and as it is."""

    member: Member
    spec: Spec
    device: torch.device
    precision: Literal["fp32", "fp64"]
    alike: object
    """What it shares with those that can be in one stack; None for one that is computed alone."""


def finished_engines(
    members: Sequence[Member], image_shape: tuple[int, int, int], stack: bool | None = None
) -> Iterator[Engine]:
    """Engines of finished modules (`Factory.holding`), where and as they are; put them into `networks.untouched`.

    Args:
        members: of one seed.
        image_shape: (C, H, W).
        stack: whether those of one architecture share a stack; None for: on a GPU.

    Raises:
        InputError: if a module is none that can be attacked.
    """
    groups: dict[object, list[_Finished]] = {}
    for number, each in enumerate(_finished(member, image_shape) for member in members):
        stacked = each.device.type == "cuda" if stack is None else stack
        key = (each.spec, str(each.device), each.precision, each.alike)
        groups.setdefault(key if stacked and each.alike is not None else number, []).append(each)
    for same in groups.values():
        first, own = same[0], [each.member for each in same]
        protocol = Protocol(candidates=tuple(member.candidate for member in own), precision=first.precision)
        if len(same) > 1 and (engine := _stacked(first, own, protocol)) is not None:
            yield engine
        else:
            for each in same:
                yield ModulesEngine(each.spec, [each.member], protocol, each.device)


def _finished(member: Member, image_shape: tuple[int, int, int]) -> _Finished:
    factory = member.candidate.factory
    if factory is None or factory.held is None:
        raise InputError(f"network {member.candidate.name}: expected a finished module; give it to Factory.holding")
    found = inspect_factory(factory, image_shape)
    wide = dtype_of(factory.name, factory.held) == torch.float64
    alike = None if found.draws_in_evaluation else architecture(factory.held)
    device = device_of(factory.name, factory.held)
    return _Finished(member, Spec(image_shape, found.classes), device, "fp64" if wide else "fp32", alike)


def _stacked(first: _Finished, members: Sequence[Member], protocol: Protocol) -> Engine | None:
    """A stack that gives its members' own logits; None where their code cannot be stacked."""
    draw = torch.Generator(device="cpu").manual_seed(0)
    images = torch.rand(4, *first.spec.image_shape, generator=draw).to(first.device)
    try:
        engine = ModuleStackEngine(first.spec, members, protocol, first.device)
        together = engine.logits(images.to(engine.dtype))
    except (RuntimeError, ValueError, TypeError, NotImplementedError):  # vmap says in many ways what it cannot
        return None
    for index, member in enumerate(members):
        alone = ModulesEngine(first.spec, [member], protocol, first.device).logits(images.to(engine.dtype))[0]
        if not alike_logits(together[index], alone):
            return None
    return engine
