"""The networks of a finished run as they are attacked and evaluated together: its parts, some of their members, and
ensembles of members of any parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from atras.attacks import Ensemble
from atras.engines import ENGINES, Engine
from atras.evaluation import Origin, OriginPart, Part, Trained
from atras.networks import Member
from atras.planning import Group, batch_bytes, part_of

from .unit import Surroundings, Task

SHARE = 0.5
"""Least share of a part's members for which all of them are attacked: few are attacked without the others."""

Place = tuple[str, int]
"""A phase and the number of a part."""


class Origins:
    """Divides origins into those that are attacked together.

    Args:
        groups: every member that takes part, once.
        fine: by phase, the members that have parameters.
        task: of the run and the members' variant.
        place: this process; its networks hold every member.
        known: parts that were made before, of the same networks.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        fine: Mapping[str, Collection[Member]],
        task: Task,
        place: Surroundings,
        known: Mapping[Group, Part[Any]] = MappingProxyType({}),
    ) -> None:
        self._groups, self._fine, self._task, self._place = groups, fine, task, place
        # Nothing is trained: evaluation and attacks are alike in all precisions but fp64.
        precision = "fp64" if task.protocol.precision == "fp64" else "fp32"
        self._protocol = task.protocol.replace(precision=precision)
        self._home = {member: number for number, group in enumerate(groups) for member in group.members}
        self.parts: list[Part[Any]] = [known.get(group) or self._part(group) for group in groups]
        """The groups as parts of a transfer."""

    def __call__(self, origins: Collection[Origin], parts: Sequence[Part[Any]]) -> Iterator[OriginPart]:
        """Those of one network by phase and part, then ensembles, alike ones together as far as memory holds them."""
        for phase in self._fine:
            for group, part in zip(self._groups, parts, strict=True):
                own = tuple(Origin((Trained(phase, member),)) for member in group.members)
                wanted = tuple(origin for origin in own if origin in origins)
                if len(wanted) >= SHARE * len(own):
                    yield OriginPart(part, phase, own)
                elif wanted:
                    members = [origin.networks[0].member for origin in wanted]
                    yield OriginPart(self._part(self._some(group, members)), phase, wanted)
        alike: dict[object, list[Origin]] = {}
        for origin in origins:
            if len(origin.networks) > 1:
                alike.setdefault((origin.how, tuple(map(self._place_of, origin.networks))), []).append(origin)
        for same in alike.values():
            yield from self._ensembles(tuple(same))

    def together(self, origins: tuple[Origin, ...]) -> OriginPart:
        """Origins that a call gave together, once more."""
        if len(origins[0].networks) > 1:
            return OriginPart(self._joint(origins), "", origins)
        phase, number = self._place_of(origins[0].networks[0])
        members = tuple(origin.networks[0].member for origin in origins)
        group, part = self._groups[number], self.parts[number]
        return OriginPart(part if members == group.members else self._part(self._some(group, members)), phase, origins)

    def _place_of(self, network: Trained) -> Place:
        return network.phase, self._home[network.member]

    def _some(self, group: Group, members: Sequence[Member], uses: int = 1) -> Group:
        return part_of(group, members, self._task.protocol, self._task.spec, self._task.machine, uses)

    def _ensembles(self, origins: tuple[Origin, ...]) -> Iterator[OriginPart]:
        """Ensembles of networks of the same parts, in halves until they fit."""
        part = self._joint(origins)
        if len(origins) == 1 or self._joint_bytes(part) <= self._task.memory_bytes:
            yield OriginPart(part, "", origins)
            return
        middle = len(origins) // 2
        yield from self._ensembles(origins[:middle])
        yield from self._ensembles(origins[middle:])

    def _joint_bytes(self, part: Part[Any]) -> int:
        """What ensembles take with their images."""
        return part.predicted_bytes + part.evaluation_batch * part.image_bytes

    def _joint(self, origins: Sequence[Origin]) -> Part[Ensemble]:
        """Ensembles as one part, whose engines are filled by the phase of each."""
        used: dict[Place, dict[Member, int]] = {}
        for origin in origins:
            for network in origin.networks:
                uses = used.setdefault(self._place_of(network), {})
                uses[network.member] = uses.get(network.member, 0) + 1
        some = {key: self._some(self._groups[key[1]], list(uses), max(uses.values())) for key, uses in used.items()}
        everyone = [Trained(phase, member) for (phase, _), group in some.items() for member in group.members]
        places = {network: number for number, network in enumerate(everyone)}
        groups = [tuple(places[network] for network in origin.networks) for origin in origins]

        def make() -> Ensemble:
            return Ensemble([self._engine(group) for group in some.values()], origins[0].how, groups)

        def fill(ensemble: Ensemble, _: str) -> None:
            for (phase, _number), engine in zip(some, ensemble.networks, strict=True):
                self._fill(engine, phase)

        batch = min(self._groups[number].evaluation_batch for _, number in some)
        image = sum(self._image_bytes(group) for group in some.values())
        members = tuple(origin.networks[0].member for origin in origins)
        need = sum(group.predicted_bytes for group in some.values())
        return Part(members, batch, make, fill, need, image)

    def _part(self, group: Group) -> Part[Engine]:
        image = self._image_bytes(group)
        return Part(
            group.members, group.evaluation_batch, lambda: self._engine(group), self._fill, group.predicted_bytes, image
        )

    def _image_bytes(self, group: Group) -> int:
        return batch_bytes(group, self._task.protocol, self._task.spec) // group.evaluation_batch

    def _engine(self, group: Group) -> Engine:
        return ENGINES.get(group.engine)(self._task.spec, group.members, self._protocol, self._task.device)

    def _fill(self, engine: Any, phase: str) -> None:
        for index, member in enumerate(engine.members):
            if member in self._fine[phase]:
                engine.set_parameters(index, self._place.networks.get(phase, member))
