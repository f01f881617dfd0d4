"""Which engine computes which candidates of a run, and in which precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from atras.engines import ENGINES, FusedEngine, modules_engine
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Network, Spec
from atras.planning import Machine, choose_engine, reason_for

from .defence_source import all_candidates


class Share(NamedTuple):
    """The candidates that one engine computes.

    Args:
        engine, precision: definite ones.
        candidates: at least one.
        machine: what it can do for these.
    """

    engine: str
    precision: str
    candidates: tuple[Candidate, ...]
    machine: Machine

    @property
    def layered(self) -> bool:
        """Whether they are made of layers, not modules of the user."""
        return not self.candidates[0].complete


def engine_shares(asked: str, protocol: Protocol, spec: Spec, machine: Machine, copies: int = 1) -> list[Share]:
    """Which engine computes which candidates: where none is asked for, those that engine fused has not are apart.

    Args:
        asked: engine, by name or `auto`.
        protocol, spec: of the members that are planned together.
        machine: what it can do, whatever the candidates.
        copies: members of each candidate among them.

    Raises:
        InputError: if an engine or a precision that is asked for cannot compute some.
    """
    candidates: dict[tuple[str, bool], list[Candidate]] = {}
    for each in all_candidates(protocol, spec):
        own = each.complete and asked == "auto"
        wanted = modules_engine(machine.kind, spec, each, copies) if own else asked
        apart = wanted == "auto" and _chooses_fused(protocol.precision, machine)
        apart = apart and bool(FusedEngine.refusal(spec, [each], machine.kind))
        candidates.setdefault((wanted, apart), []).append(each)
    shares = []
    # Those of layers first, and of these the ones that engine fused has.
    for (wanted, _), some in sorted(candidates.items(), key=lambda item: (item[0][0] != asked, item[0][1])):
        fused = machine.fused or (FusedEngine.refusal(spec, some, machine.kind) if wanted in ("auto", "fused") else "")
        here = dataclasses.replace(machine, fused=fused)
        engine, precision = choose_engine(wanted, protocol.precision, have_convolutions(some, spec), here)
        kind = ENGINES.get(engine)
        if refused := kind.refusal(spec, some, machine.kind) or kind.lacks(protocol, machine.kind):
            raise InputError(f"engine (={engine}): {refused}; use --engine auto, or another engine")
        shares.append(Share(engine, precision, tuple(some), here))
    return shares


def _chooses_fused(precision: str, machine: Machine) -> bool:
    """Whether `auto` means engine fused on a machine, for candidates that it has."""
    return choose_engine("auto", precision, False, machine)[0] == "fused"


def have_convolutions(candidates: Iterable[Candidate], spec: Spec) -> bool:
    """Whether any network of these computes on images behind its first layer."""
    networks = (Network(spec, candidate) for candidate in candidates)
    return any(len(place.outputs) == 3 for network in networks for place in network.hidden)


def why_not_fused(share: Share, asked: str, *, apart: bool) -> str:
    """Why engine fused is not taken for a share: a line for people; empty where it is.

    Args:
        share: of candidates of layers.
        asked: the engine that was asked for.
        apart: whether there are others, so that it is to say which these are.
    """
    reason = reason_for(asked, share.engine, share.machine)
    if not reason or not apart:
        return reason
    names = [candidate.name for candidate in share.candidates]
    shown = ", ".join(names) if len(names) < 4 else f"{', '.join(names[:2])} and {len(names) - 2} more"
    return f"{reason}, for {shown}: engine {share.engine} in {share.precision} computes these"
