"""Parameters of trained networks as files: one safetensors file a group and phase, no pickle.

A tensor is named `<hidden layers>/<seed>/<parameter>`, such as `24-192/0/dense1.weight`, at its natural width. The
file's metadata holds the shared spec of the networks and the protocol's hash.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from .engine import Engine, Member
from .errors import InputError
from .model import Parameters, Spec, parameter_shapes
from .space import Candidate

FOLDER = "weights"
FORMAT = "atras-weights-1"
PHASES = ("trained", "defended")


def file_name(phase: str, group: int) -> str:
    """Where a group's networks lie, below the run's folder."""
    return f"{FOLDER}/{phase}-{group:03d}.safetensors"


def pack(spec: Spec, protocol_hash: str, networks: Mapping[Member, Parameters]) -> bytes:
    """The content of a file of networks."""
    tensors = {
        f"{member.candidate.name}/{member.seed}/{name}": values.detach().cpu().contiguous()
        for member, parameters in networks.items()
        for name, values in parameters.items()
    }
    metadata = {"format": FORMAT, "spec": json.dumps(dataclasses.asdict(spec)), "protocol_hash": protocol_hash}
    return safetensors.torch.save(tensors, metadata)


def networks_of(engine: Engine) -> dict[Member, Parameters]:
    """Copies of every member's parameters."""
    return {member: engine.parameters_of(index) for index, member in enumerate(engine.members)}


def read_member(folder: str | Path, candidate: Candidate, seed: int, phase: str) -> tuple[Spec, Parameters]:
    """One network of a run.

    Args:
        folder: the run's.
        candidate, seed: which member.
        phase: `trained` or `defended`.

    Returns:
        The spec, and the parameters as `model.parameter_shapes` names them.

    Raises:
        InputError: if the run has no such network, or a file is damaged.
    """
    if phase not in PHASES:
        raise InputError(f"phase (={phase!r}): expected one of {', '.join(PHASES)}")
    prefix = f"{candidate.name}/{seed}/"
    for path in sorted((Path(folder) / FOLDER).glob(f"{phase}-*.safetensors")):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a mapping)
                if not names:
                    continue
                spec = _spec(file.metadata())
                parameters = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{path}: expected networks of a run, found a damaged or foreign file ({reason})"
            ) from None
        return spec, _checked(path, spec, candidate, parameters)
    raise InputError(
        f"{folder}: expected the {phase} network {candidate.name} of seed {seed}, found none; name a member of the run"
    )


def _spec(metadata: dict[str, str] | None) -> Spec:
    values: dict[str, Any] = json.loads((metadata or {})["spec"])
    return Spec(**(values | {"image_shape": tuple(values["image_shape"])}))


def _checked(path: Path, spec: Spec, candidate: Candidate, parameters: Parameters) -> Parameters:
    shapes = parameter_shapes(spec, candidate.hidden)
    if {name: tuple(values.shape) for name, values in parameters.items()} != shapes:
        raise InputError(f"{path}: expected the parameters of {candidate.name}, found others; the file is damaged")
    return {name: parameters[name] for name in shapes}
