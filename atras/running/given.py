"""Networks that are finished before a run begins: their weights, as the run's networks name them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Factory, Network, Own, Spec, Weights, fitted, read_weights, state_of, weights_of
from atras.results import read_run
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
        found[candidate] = fitted(each, Network(spec, candidate).state_shapes, candidate.name)
    return found


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
        InputError: if there are too few or too many, one cannot be read, or does not fit.
    """
    asked = [Factory.parse(text) if ":" in text else Candidate.parse(text) for text in networks]
    if not files:
        return _with_own_weights(asked)
    each_has_one = len(asked) == len(files)
    names = [one.name if isinstance(one, Candidate) else None for one in asked] if each_has_one else [None] * len(files)
    found = [read_weights(file, name) for file, name in zip(files, names, strict=True)]
    takes = [each_has_one or not (each.candidate or each.program) for each in found]
    if sum(takes) != len(asked):
        raise InputError(
            f"network (={len(asked)} of them): expected one for each file of weights that does not say what it is of, "
            f"{sum(takes)} of {len(files)} files; add --network, in the order of the files"
        )
    left = iter(asked)
    return _distinct([_pair(next(left) if take else None, each) for take, each in zip(takes, found, strict=True)])


def _with_own_weights(asked: Sequence[Factory | Candidate]) -> tuple[tuple[Candidate, ...], list[Weights]]:
    """Modules with the weights that they are made with."""
    if not asked or not all(isinstance(one, Factory) for one in asked):
        raise InputError(
            "weights: expected a file of weights for each network of layers, none came; add --weights FILE"
        )
    made = [one for one in asked if isinstance(one, Factory)]
    return _distinct([_of_module(one, weights_of(one.make(0))) for one in made])


def _pair(network: Factory | Candidate | None, weights: Weights) -> tuple[Candidate, Weights]:
    if isinstance(network, Factory):
        return _of_module(network, weights)
    if weights.program is not None:
        return _of_module(_program(weights.where, weights.program), weights)
    candidate = network or weights.candidate
    if candidate is None:
        raise InputError(f"{weights.where}: expected a network for its weights, none came; add --network")
    return candidate, weights


def _program(path: str, make: Callable[[], nn.Module]) -> Factory:
    """The network that a file is, under the file's name."""
    name = re.sub(r"\W+", "_", Path(path).stem)
    return Factory.of(name if re.match("[A-Za-z_]", name) else f"_{name}", make)


def _of_module(factory: Factory, weights: Weights) -> tuple[Candidate, Weights]:
    """A module with its weights: from now on it is made with them."""
    module = factory.make(0)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    own = fitted(weights, shapes, factory.name)
    filled = factory.starting_from(own.tensors, f"{own.file or 'as it is made'}, SHA-256 {own.sha256}")
    # With all that a checkpoint leaves out, such as buffers that are not saved.
    state = {name: value.clone() for name, value in state_of(filled.make(0)).items()}
    return Candidate([Own(filled)]), dataclasses.replace(own, tensors=state)


def _distinct(pairs: Sequence[tuple[Candidate, Weights]]) -> tuple[tuple[Candidate, ...], list[Weights]]:
    """The pairs with a name of its own for each: of networks of one name, each module with its file's beside it."""
    names = [candidate.name for candidate, _ in pairs]
    candidates = []
    for candidate, weights in pairs:
        layer = candidate.layers[0]
        if names.count(candidate.name) > 1:
            if not isinstance(layer, Own):
                raise InputError(
                    f"network {candidate.name}: came twice, and networks of layers are named by them; write a function "
                    "that makes the module, mine.py:make, or attack them in two runs"
                )
            stem = re.sub(r"\W+", "_", Path(weights.file or "").stem)
            name = f"{candidate.name}.{stem}"
            taken = [other.name for other in candidates].count(name) or names.count(name)
            candidate = Candidate([Own(layer.factory.renamed(f"{name}.{len(candidates) + 1}" if taken else name))])
        candidates.append(candidate)
    return tuple(candidates), [weights for _, weights in pairs]


def shared_spec(weights: Sequence[Weights]) -> dict[str, Any]:
    """The fields of a protocol that files of weights agree upon: the stem and the activation of their networks."""
    said = {name: {each.spec[name] for each in weights if name in each.spec} for name in OF_FUNCTION}
    return {name: next(iter(values)) for name, values in said.items() if len(values) == 1}


def weights_again(folder: Path, protocol: Protocol) -> list[Weights]:
    """The weights of a run that goes on, from the files where they were.

    Args:
        folder: the run's.
        protocol: as recorded.

    Raises:
        InputError: if a file is gone, or its content is another.
    """
    recorded: Any = read_run(folder).get("weights") or []
    found = []
    for record, candidate, sha256 in zip(recorded, protocol.candidates, protocol.weights, strict=False):
        path = str(record.get("file"))
        weights = read_weights(_place(path, folder), candidate.name)
        if weights.sha256 != sha256:
            raise InputError(
                f"{path}: expected the weights that the run began with (SHA-256 {sha256[:12]}), found others "
                f"({weights.sha256[:12]}); restore them, or start a new run"
            )
        found.append(weights)
    return found


def _place(path: str, folder: Path) -> str:
    """Where a file is: at its path, or, if folders were moved together, seen from the run's folder."""
    beside = os.path.normpath(folder / path)
    return beside if not is_file(path) and is_file(beside) else path
