"""Parameters of trained networks as files: one safetensors file a group and phase, no pickle.

A tensor is named `<hidden layers>/<seed>/<parameter>`, such as `24-192/0/dense1.weight`, at its natural width. The
file's metadata holds the shared spec of the networks and the protocol's hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from atras.errors import InputError
from atras.evaluation import PHASES
from atras.networks import Candidate, Member, Network, Parameters, Spec, Variant
from atras.storage import (
    TENSOR_ERRORS,
    expanded,
    pack_tensors,
    read_some_tensors,
    reason_of,
    remove_file,
    tensor_names,
    write_file,
)

from .checkpoint import key_of

FOLDER = "weights"
FORMAT = "atras-weights-1"

MOST_HEADER_BYTES = 50_000_000
"""A file of networks whose header would have more, as far as can be told, is several: readers bound it."""

ENTRY_BYTES = 150
"""Most bytes of a header that tell of a tensor, but for its name."""


def file_name(phase: str, members: Sequence[Member], part: int | None = None) -> str:
    """Where a group's networks lie below the run's folder, or one part of them."""
    return f"{FOLDER}/{phase}-{key_of(members)}{'' if part is None else f'-{part:03d}'}.safetensors"


class Networks:
    """The networks of a run: in its folder, or in memory where it has none.

    Args:
        folder: the run's.
        spec, protocol_hash: of all networks, but for those of which `put` is told another spec.
        in_memory: whether to keep them without a folder; where there is neither, they are let go.
    """

    def __init__(self, folder: Path | None, spec: Spec, protocol_hash: str, in_memory: bool = False) -> None:
        self._folder, self._spec, self._hash = folder, spec, protocol_hash
        self._held: dict[tuple[str, Member], Parameters] = {}
        self._places = None if folder is None else _Places(folder)
        self.wanted = in_memory or folder is not None

    @property
    def held(self) -> Mapping[tuple[str, Member], Parameters]:
        """The networks that are in memory, by phase and member."""
        return self._held

    def put(
        self,
        phase: str,
        members: Sequence[Member],
        part: int | None,
        networks: Mapping[Member, Parameters],
        spec: Spec | None = None,
    ) -> None:
        """Keep the networks of a group of members, or those of a part of it.

        Args:
            phase: `trained` or `defended`.
            members: of the group.
            part: its number; None for all members.
            networks: the parameters of each.
            spec: of these networks, where a variant has another than the run's first.

        Raises:
            InputError: if the file cannot be written.
        """
        if self._folder is not None:
            shares = list(_shares(networks))
            for number, share in enumerate(shares):
                path = self._folder / file_name(phase, members, number if len(shares) > 1 else part)
                write_file(path, self._packed(share, spec or self._spec))
        elif self.wanted:
            self._held |= {(phase, member): dict(parameters) for member, parameters in networks.items()}

    def _packed(self, networks: Mapping[Member, Parameters], spec: Spec) -> list[bytes | memoryview]:
        tensors = {
            f"{m.name}/{name}": values for m, parameters in networks.items() for name, values in parameters.items()
        }
        return pack_tensors(
            {"format": FORMAT, "spec": json.dumps(spec.to_dict()), "protocol_hash": self._hash}, tensors
        )

    def get(self, phase: str, member: Member) -> Parameters:
        """One network, on the CPU.

        Raises:
            InputError: if it is not there, or its file is damaged.
        """
        if self._folder is not None and self._places is not None:
            if (path := self._places.of(phase, member)) is not None and (found := _read(path, member)) is not None:
                return found[1]
            return read_member(self._folder, *member[:2], phase, member.variant)[1]
        if (phase, member) not in self._held:
            raise InputError(
                f"networks: expected the {phase} network {member.name}, found none; ask the run to keep it"
            )
        return self._held[phase, member]

    def forget_others(self, groups: Iterable[Sequence[Member]]) -> None:
        """Delete the files of all but these groups: other groups will write those members."""
        if self._folder is None:
            return
        kept = {key_of(members) for members in groups}
        for path in (self._folder / FOLDER).glob("*.safetensors"):
            if path.stem.split("-")[1] not in kept:
                remove_file(path)


def read_member(
    folder: str | Path,
    candidate: Candidate,
    seed: int,
    phase: str,
    variant: Variant = Variant(),
    *,
    checked: bool = True,
) -> tuple[Spec, Parameters]:
    """One network of a run.

    Args:
        folder: the run's.
        candidate, seed: which member.
        phase: `trained` or `defended`.
        variant: of a run with axes.
        checked: hold the parameters against the network, whose module must be there for it.

    Returns:
        The spec, and the parameters as `Network.state_shapes` names them.

    Raises:
        InputError: if the run has no such network, or a file is damaged.
    """
    if phase not in PHASES:
        raise InputError(f"phase (={phase!r}): expected one of {', '.join(PHASES)}")
    member = Member(candidate, seed, variant)
    for path in _files(expanded(folder), phase):
        if (found := _read(path, member, checked)) is not None:
            return found
    raise InputError(f"{folder}: expected the {phase} network {member.name}, found none; name a member of the run")


def files_of(folder: Path, groups: Iterable[Sequence[Member]]) -> dict[Member, tuple[str, ...]]:
    """By member, the files of its group's networks, by their names below the run's folder.

    Args:
        folder: the run's.
        groups: the members of each.
    """
    names: dict[str, list[str]] = {}
    for path in sorted((folder / FOLDER).glob("*.safetensors")):
        names.setdefault(path.stem.split("-")[1], []).append(f"{FOLDER}/{path.name}")
    found: dict[Member, tuple[str, ...]] = {}
    for members in groups:
        found |= dict.fromkeys(members, tuple(names.get(key_of(members), ())))
    return found


def _files(folder: Path, phase: str) -> list[Path]:
    """A run's files of a phase."""
    return sorted((folder / FOLDER).glob(f"{phase}-*.safetensors"))


def _read(path: Path, member: Member, checked: bool = True) -> tuple[Spec, Parameters] | None:
    """A network, if this file has it."""
    try:
        metadata, parameters = read_some_tensors(path, FORMAT, f"{member.name}/")
        if not parameters:
            return None
        spec = _spec(metadata)
    except TENSOR_ERRORS as error:
        raise _damaged(path, error) from None
    return spec, _checked(path, spec, member.candidate, parameters) if checked else parameters


def _damaged(path: Path, error: BaseException) -> InputError:
    reason = reason_of(error)
    return InputError(f"{path}: expected networks of a run, found a damaged or foreign file ({reason}); run it again")


class _Places:
    """Which file of a run has which network. The names in each file are read once, however many networks are asked for.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[str, str], Path] = {}
        self._seen: dict[str, dict[Path, None]] = {}

    def of(self, phase: str, member: Member) -> Path | None:
        """The file, if there is one.

        Raises:
            InputError: if a file is damaged.
        """
        key = phase, member.name
        if key not in self._known or not self._known[key].exists():
            self._look(phase)
        return self._known.get(key)

    def _look(self, phase: str) -> None:
        there = dict.fromkeys(_files(self._folder, phase))
        for path in reversed(there):  # of two that have a network the first one counts
            if path not in self._seen.get(phase, ()):
                try:
                    names = tensor_names(path, FORMAT)
                except TENSOR_ERRORS as error:
                    raise _damaged(path, error) from None
                self._known |= {(phase, name.rpartition("/")[0]): path for name in names}
        self._known = {key: path for key, path in self._known.items() if key[0] != phase or path in there}
        self._seen[phase] = there


def _shares(networks: Mapping[Member, Parameters]) -> Iterator[dict[Member, Parameters]]:
    """The networks, so many at a time as the header of a file has room for."""
    share: dict[Member, Parameters] = {}
    room = MOST_HEADER_BYTES
    for member, parameters in networks.items():
        need = sum(len(member.name) + len(name) + ENTRY_BYTES for name in parameters)
        if share and need > room:
            yield share
            share, room = {}, MOST_HEADER_BYTES
        share[member] = parameters
        room -= need
    yield share


def _spec(metadata: dict[str, str]) -> Spec:
    return Spec(**json.loads(metadata["spec"]))


def _checked(path: Path, spec: Spec, candidate: Candidate, parameters: Parameters) -> Parameters:
    shapes = Network(spec, candidate).state_shapes
    if {name: tuple(values.shape) for name, values in parameters.items()} != shapes:
        raise InputError(f"{path}: expected the parameters of {candidate.name}, found others; the file is damaged")
    return {name: parameters[name] for name in shapes}
