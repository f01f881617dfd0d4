"""Networks that are finished before a run begins: their weights, as the run's networks name them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from atras.errors import InputError
from atras.experiment import OwnNetworks, Protocol
from atras.networks import Candidate, Factory, Network, Spec, Weights, fitted, read_weights, state_of, weights_of
from atras.rounding import counted
from atras.storage import is_file

OF_FUNCTION = ("stem", "activation")
"""Values of a spec that decide what a network computes from its weights."""


def fitted_weights(protocol: Protocol, spec: Spec, weights: Sequence[Weights]) -> dict[Candidate, Weights]:
    """The weights of a protocol's candidates under the names that their networks know; none of a run that trains.

    Args:
        protocol, spec: of the run.
        weights: one for each candidate, in their order.

    Raises:
        InputError: if they are others than those of the protocol, or do not fit the networks.
    """
    if tuple(each.sha256 for each in weights) != protocol.weights:
        raise InputError(
            f"weights: expected those of the protocol, {len(protocol.weights)} of them, got {len(weights)}, or others; "
            "finished networks are attacked by atras attack"
        )
    found: dict[Candidate, Weights] = {}
    for candidate, each in zip(protocol.candidates, weights, strict=False):
        _check_spec(spec, candidate, each)
        if candidate.factory is not None:
            found[candidate] = _of_module(candidate.factory, each)
        else:
            found[candidate] = fitted(each, Network(spec, candidate).parameter_shapes, candidate.name)
    return found


def _of_module(factory: Factory, weights: Weights) -> Weights:
    """The weights as a module has them once they are loaded, with all that a checkpoint leaves out."""
    module = factory.make(0)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    own = fitted(weights, shapes, factory.name)
    module.load_state_dict(own.tensors, strict=False)
    return dataclasses.replace(own, tensors={name: value.clone() for name, value in state_of(module).items()})


def _check_spec(spec: Spec, candidate: Candidate, weights: Weights) -> None:
    """Refuse weights of another network whose shapes are the same."""
    ours = spec.to_dict()
    for name in OF_FUNCTION:
        theirs: Any = weights.spec.get(name, ours[name])
        if theirs != ours[name]:
            raise InputError(
                f"{weights.where}: network {candidate.name} has {name} {theirs}, the run has {ours[name]}; add "
                f"--{name} {theirs}"
            )


def finished_networks(networks: Sequence[str], files: Sequence[str]) -> tuple[tuple[Candidate, ...], list[Weights]]:
    """The candidates and weights of finished networks, in one order.

    Args:
        networks: functions that make modules, such as `mine.py:make`, or spellings of layers; as many as files, or one
            for each file that does not say what it is of.
        files: their weights; none for modules that are made with their weights.

    Raises:
        InputError: if there are too few or too many, or one cannot be read.
    """
    asked = list(map(Candidate.parse, networks))
    if not files:
        return _distinct([(candidate, _own_weights(candidate)) for candidate in _some(asked)])
    each_has_one = len(asked) == len(files)
    names = [candidate.name for candidate in asked] if each_has_one else [None] * len(files)
    found = [read_weights(file, name) for file, name in zip(files, names, strict=True)]
    takes = [each_has_one or not (each.candidate or each.program) for each in found]
    if sum(takes) != len(asked):
        raise InputError(
            f"network (={len(asked)} of them): expected one for each file of weights that does not say what it is of, "
            f"{sum(takes)} of {counted(len(files), 'file')}; add --network, in the order of the files"
        )
    left = iter(asked)
    return _distinct(
        [(_network(next(left) if take else None, each), each) for take, each in zip(takes, found, strict=True)]
    )


def _some(asked: Sequence[Candidate]) -> Sequence[Candidate]:
    if not asked:
        raise InputError("network: expected one or more networks to attack, none came; add --network or --weights")
    return asked


def _own_weights(candidate: Candidate) -> Weights:
    """The weights that a module is made with."""
    if candidate.factory is None:
        raise InputError(f"network {candidate.name}: expected a file of its weights, none came; add --weights FILE")
    return weights_of(candidate.factory.make(0))


def _network(candidate: Candidate | None, weights: Weights) -> Candidate:
    """The network of a file: the one asked for, or the one that the file says it is."""
    own = candidate or weights.candidate
    if own is None and weights.program is not None:
        name = re.sub(r"\W+", "_", Path(weights.where).stem)
        own = _program(name if re.match("[A-Za-z_]", name) else f"_{name}", weights.sha256, weights.program)
    if own is None:
        raise InputError(f"{weights.where}: expected a network for its weights, none came; add --network")
    return own


def _program(name: str, sha256: str, make: Callable[[], nn.Module]) -> Candidate:
    """The network that a file is."""
    return Candidate.own(name, Factory(name, "program", sha256, call=make))


def _distinct(pairs: Sequence[tuple[Candidate, Weights]]) -> tuple[tuple[Candidate, ...], list[Weights]]:
    """The pairs with a name of its own for each: of modules of one name, each with its file's beside it."""
    names = [candidate.name for candidate, _ in pairs]
    candidates: list[Candidate] = []
    for candidate, weights in pairs:
        own = candidate
        if names.count(candidate.name) > 1:
            if candidate.factory is None:
                raise InputError(
                    f"network {candidate.name}: came twice, and networks of layers are named by them; write a function "
                    "that makes the module, mine.py:make, or attack them in two runs"
                )
            stem = re.sub(r"\W+", "_", Path(weights.file or "").stem)
            name = f"{candidate.name}.{stem}"
            taken = [other.name for other in candidates].count(name) or names.count(name)
            name = f"{name}.{len(candidates) + 1}" if taken else name
            own = Candidate.own(name, candidate.factory.renamed(name))
        candidates.append(own)
    return tuple(candidates), [weights for _, weights in pairs]


def shared_spec(weights: Sequence[Weights]) -> dict[str, Any]:
    """The fields of a protocol that files of weights agree upon: the stem and the activation of their networks."""
    said = {name: {each.spec[name] for each in weights if name in each.spec} for name in OF_FUNCTION}
    return {name: next(iter(values)) for name, values in said.items() if len(values) == 1}


def weights_again(folder: Path, networks: OwnNetworks | None) -> tuple[list[Weights], OwnNetworks]:
    """The weights of a run that goes on, from where they were, and what is needed to recall its modules.

    Args:
        folder: the run's.
        networks: modules that are given again.

    Raises:
        InputError: if a file is gone, or its content is another.
    """
    from atras.results import read_run  # training needs no polars

    run = read_run(folder)
    records: Any = run.get("weights") or []
    modules: Any = run["protocol"].get("networks") or {}
    given = dict(networks or {})
    found = []
    for record in records:
        name = str(record["network"])
        if record["file"] is None:
            factory = Factory.from_dict(name, modules[name])
            weights = weights_of((factory if name not in given else _given_again(name, given[name])).make(0))
        else:
            weights = read_weights(_place(record, folder), name)
        if weights.sha256 != record["sha256"]:
            raise InputError(
                f"{record['file'] or name}: expected the weights that the run began with (SHA-256 "
                f"{str(record['sha256'])[:12]}), found others ({weights.sha256[:12]}); restore them, or start a new run"
            )
        if weights.program is not None and name in modules:
            given[name] = Factory(name, "program", weights.sha256, call=weights.program)
        found.append(weights)
    return found, given


def _given_again(name: str, value: Any) -> Factory:
    return Factory.parse(value, name) if isinstance(value, str) else Factory.of(name, value)


def _place(record: Mapping[str, Any], folder: Path) -> str:
    """Where a file is: at its path, or, if folders were moved together, seen from the run's folder."""
    path, beside = str(record["file"]), os.path.normpath(folder / str(record.get("file_from_run")))
    return beside if not is_file(path) and is_file(beside) else path
