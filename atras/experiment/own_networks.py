"""Modules that a user brings, in experiments: added to a protocol, and found again by what a run's record says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from atras.errors import InputError, shown
from atras.networks import PAPER_CANDIDATES, Candidate, Factory

from .protocol import Protocol

if TYPE_CHECKING:
    from torch import nn

OwnNetworks = Mapping[str, "Callable[[], nn.Module] | str | Factory"]
"""By name, a function or class without arguments that makes a module, where it is: `mine.py:make`, or a factory."""


def with_networks(protocol: Protocol, networks: OwnNetworks | None) -> Protocol:
    """A protocol with modules of the user as further candidates; alone where it has the paper's, which are the default.

    Raises:
        InputError: if a name or a factory cannot be used.
    """
    if not networks:
        return protocol
    own = tuple(Candidate.own(name, factory) for name, factory in networks.items())
    before = () if protocol.candidates == PAPER_CANDIDATES else protocol.candidates
    return protocol.replace(candidates=(*before, *own))


def recall_networks(record: object, given: OwnNetworks | None = None) -> None:
    """Make the modules of a recorded run known by their names.

    Args:
        record: as `Protocol.to_dict` has it under `networks`.
        given: those that are given anew, which a function in Python must be.

    Raises:
        InputError: if the record is none, or what is given is of another source or name.
    """
    recorded = record if isinstance(record, Mapping) else {}
    if not isinstance(record, Mapping | None):
        raise InputError(f"networks (={shown(record)}): expected an object; restore the record")
    for name in given or {}:
        if name not in recorded:
            there = ", ".join(recorded) or "no module of yours"
            raise InputError(f"networks (={shown(name)}): the run has {there}; leave it out")
    for name, values in recorded.items():
        factory = Factory.from_dict(name, values)
        if given and name in given:
            factory.check_source(found := _factory(name, given[name]))
            Candidate.own(name, found)
        else:
            Candidate.recall(factory)


def _factory(name: str, given: Callable[[], nn.Module] | str | Factory) -> Factory:
    if isinstance(given, Factory):
        return given
    return Factory.parse(given, name) if isinstance(given, str) else Factory.of(name, given)
