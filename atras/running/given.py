"""Networks that are finished before a run begins: their weights, as the run's networks name them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Network, Spec, Weights, fitted, read_weights
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
        found[candidate] = fitted(each, Network(spec, candidate).parameter_shapes, candidate.name)
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
    """The candidates and weights of finished networks.

    Args:
        networks: spellings of layers; as many as files, or one for each file that does not say what it is of.
        files: their weights.

    Raises:
        InputError: if there are too few or too many, or one cannot be read.
    """
    if not files:
        raise InputError("weights: expected a file of weights for each network, none came; add --weights FILE")
    asked = list(map(Candidate.parse, networks))
    named = [candidate.name for candidate in asked] if len(asked) == len(files) else [None] * len(files)
    found = [read_weights(file, name) for file, name in zip(files, named, strict=True)]
    left = iter(asked)
    candidates = [None if each.candidate and len(asked) != len(files) else next(left, None) for each in found]
    own = [each.candidate if given is None else given for given, each in zip(candidates, found, strict=True)]
    known = tuple(candidate for candidate in own if candidate is not None)
    if len(known) != len(found) or next(left, None) is not None:
        raise InputError(
            f"network (={len(asked)} of them): expected one for each file of weights that does not say what it is of "
            f"({len(files)} files); add --network, in their order"
        )
    return known, found


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
