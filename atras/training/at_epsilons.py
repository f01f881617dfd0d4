"""The evaluators of an engine's members, those of each epsilon on an engine of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from atras.data import Dataset
from atras.engines import Engine
from atras.evaluation import AtEpsilon, Evaluator, Evaluators
from atras.experiment import Protocol


def evaluators_of(engine: Engine, data: Dataset, protocol: Protocol, evaluation_batch: int) -> Evaluators:
    """The evaluators of all members of an engine.

    Args:
        engine: the members.
        data, protocol, evaluation_batch: as of `Evaluator`, the protocol that of the first member.
    """
    places: dict[float, list[int]] = {}
    for place, epsilon in enumerate(engine.epsilons):
        places.setdefault(epsilon, []).append(place)
    if len(places) == 1:
        return Evaluators(Evaluator(engine, data, protocol, evaluation_batch))
    own = torch.tensor(engine.epsilons, dtype=torch.float64, device=engine.device)
    whole = Evaluator(engine, data, protocol, evaluation_batch, epsilons=own)
    each = []
    for number, (epsilon, some) in enumerate(places.items()):
        copy = _engine_of(engine, some)
        evaluator = Evaluator(copy, data, protocol.replace(epsilon=epsilon), evaluation_batch, f"@{number}")
        each.append(AtEpsilon(tuple(some), evaluator, partial(_refresh, copy, engine, some)))
    return Evaluators(whole, each)


def _engine_of(engine: Engine, places: Sequence[int]) -> Engine:
    """Room for the parameters of some members, which are attacked there as in a run of their own."""
    members = [engine.members[place] for place in places]
    return type(engine)(engine.spec, members, engine.protocol.replace(average=0.0), engine.device)


def _refresh(copy: Engine, engine: Engine, places: Sequence[int]) -> None:
    """Give a copy what is evaluated of the members now."""
    for index, place in enumerate(places):
        copy.set_parameters(index, engine.evaluated_parameters(place))
