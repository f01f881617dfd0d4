"""A plan: which members are computed together, by which engine, and what that will take."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from atras.checks import number, one_of, whole
from atras.engines import ENGINES
from atras.errors import InputError, wrapped
from atras.experiment import Protocol, trained_as
from atras.networks import Member, Variant

SECONDS = ("predicted_seconds", "predicted_attack_seconds", "predicted_transfer_seconds")
"""The names of a group's predicted times."""

PRECISIONS = ("fp32", "fp64", "tf32", "bf16")
"""Definite arithmetics of training."""

_COUNTS = ("saved_flops", "step_images")
"""Numbers of a training, which are recorded where they are above 0."""


@dataclass(frozen=True)
class Group:
    """Members computed together.

    Args:
        engine: name of the engine that computes them.
        precision: of their training.
        members: whose variants differ in nothing but what an engine takes a value for each member of.
        evaluation_batch: images of a forward pass in evaluation and attack.
        parameters: of all members, padding left out.
        flops: useful FLOPs of all training steps.
        padding_share: share of the computed FLOPs that padding adds, in [0, 1).
        predicted_bytes: most memory at once.
        predicted_seconds: of all; None where speed was not measured.
        predicted_attack_seconds, predicted_transfer_seconds: the parts of it for evaluation and attacks, and transfer.
        chunk: images of each order that are gathered at once in training; 0 where they are taken as they lie.
        begun: whether its first training is one that several groups share; cost and seconds are without it then.
    """

    engine: str
    precision: str
    members: tuple[Member, ...]
    evaluation_batch: int
    parameters: int
    flops: int
    padding_share: float
    predicted_bytes: int
    predicted_seconds: float | None = None
    predicted_attack_seconds: float | None = None
    predicted_transfer_seconds: float | None = None
    chunk: int = 0
    begun: bool = False

    @property
    def variant(self) -> Variant:
        """That of its first member: its protocol is the group's, but for what an engine takes for each member."""
        return self.members[0].variant

    @property
    def label(self) -> str:
        """Its candidates, and what its variants have in common: `depth 2: 8-128 .. 64-1024, learning_rate=0.003`."""
        return ", ".join(filter(None, [self.span, self.common]))

    @property
    def span(self) -> str:
        """Depth and first and last candidate, such as `depth 2: 8-128 .. 64-1024`."""
        names = [member.candidate.name for member in self.members]
        depths = sorted({member.candidate.depth for member in self.members})
        if len(depths) > 1:
            return f"depth {depths[0]} to {depths[-1]}: {len(set(names))} candidates"
        span = names[0] if len(set(names)) == 1 else f"{_short(names[0])} .. {_short(names[-1])}"
        return f"depth {depths[0]}: {span}"

    @property
    def common(self) -> str:
        """The settings that all members' variants have; empty where there are none."""
        same = set.intersection(*(set(member.variant.settings) for member in self.members))
        return Variant(tuple(pair for pair in self.variant.settings if pair in same)).name


@dataclass(frozen=True)
class Training:
    """A first training that groups need before they can go on: work of its own.

    Args:
        group: its members, as their first training knows them; what it costs is that of this training alone.
        variants: of the members that need it.
        source: whether they are trained on adversarial images of its networks; if not, they begin with its networks.
        saved_flops: useful FLOPs that groups would have besides, if each did this training for itself.
        step_images: most images of an optimizer step that its engine is made for, where its last bits may depend on
            that; 0 where they do not.
    """

    group: Group
    variants: tuple[Variant, ...]
    source: bool
    saved_flops: int = 0
    step_images: int = 0

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name it by all that its networks, and what is made on them, depend on."""
        group = self.group
        names = " ".join(member.name for member in group.members)
        text = f"{self.source} {group.engine} {group.precision} {group.evaluation_batch} {self.step_images} {names}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def label(self) -> str:
        """What it is, for people."""
        if self.source:
            return f"the defence's source {self.group.members[0].candidate.name}"
        return f"first training of {self.group.label}"

    @property
    def saved_seconds(self) -> float | None:
        """Predicted seconds of what is saved; None where speed was not measured."""
        seconds, flops = self.group.predicted_seconds, self.group.flops
        return seconds and seconds * self.saved_flops / flops if flops else seconds

    def of(self, part: Group) -> Training:
        """It, of some of its members alone, where they are computed apart from the others."""
        return self if part.members == self.group.members else dataclasses.replace(self, group=part)

    def serves(self, group: Group) -> bool:
        """Whether a group of the plan needs it."""
        theirs = [member for member in group.members if member.variant in self.variants]
        if self.source:
            return bool(theirs)
        own = set(self.group.members)
        return group.begun and any(trained_as(member) in own for member in theirs)

    @property
    def record(self) -> dict[str, Any]:
        """How `run.json` names it once it is done."""
        group = self.group
        names = [member.name for member in group.members]
        return {"source": self.source, "engine": group.engine, "precision": group.precision, "members": names}

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for `run.json`."""
        variants = [variant.to_list() for variant in self.variants]
        more = {name: value for name in _COUNTS if (value := getattr(self, name))}
        return {"source": self.source, "variants": variants, "group": _values(self.group), **more}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Training:
        """What `to_dict` gave; ValueError, TypeError or KeyError where it is something else."""
        variants = tuple(map(Variant.from_list, values["variants"]))
        counts = {name: values.get(name, 0) for name in _COUNTS}
        for name, value in counts.items():
            whole(name, value, 0, 10**30)
        return cls(_group(values["group"]), variants, bool(values["source"]), **counts)


@dataclass(frozen=True)
class Plan:
    """All groups in the order they are computed.

    Args:
        device, engine, precision: of all groups but those that a run had finished before it was planned anew.
        groups: in that order.
        reason: why the engine is not the one that is best elsewhere; empty where it is.
        precision_reason: why the precision is what it is; empty where it was asked for.
        limits: what limits memory and threads, and where that is said; a line each.
        predicted_transfer_bytes: most memory at once in the transfer; None without one.
        threads: that it is for; 0 where nobody knows.
        replanned: why a recorded plan was not taken; empty where there was none, or it was.
        machines: that its groups are enough and even enough for.
        trainings: which groups need before they can go on, in the order in which they are needed first.
    """

    device: str
    engine: str
    precision: str
    groups: tuple[Group, ...]
    reason: str = ""
    precision_reason: str = ""
    limits: tuple[str, ...] = ()
    predicted_transfer_bytes: int | None = None
    threads: int = 0
    replanned: str = ""
    machines: int = 1
    trainings: tuple[Training, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for `run.json`."""
        head = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        trainings = [training.to_dict() for training in self.trainings]
        return head | {
            "limits": list(self.limits), "groups": list(map(_values, self.groups)), "trainings": trainings,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any], protocol: Protocol) -> Plan:
        """The plan that an earlier run recorded.

        Raises:
            InputError: if it is not a plan for this protocol.
        """
        try:
            groups = tuple(_group(group) for group in values["groups"])
            device, engine, precision = (str(values[name]) for name in ("device", "engine", "precision"))
            reason, arithmetic = (str(values.get(name, "")) for name in ("reason", "precision_reason"))
            limits = tuple(map(str, values.get("limits", ())))
            transfer = values.get("predicted_transfer_bytes")
            if transfer is not None:
                whole("predicted_transfer_bytes", transfer, 0, 10**30)
            made_for, machines = int(values.get("threads", 0)), int(values.get("machines", 1))
            trainings = tuple(map(Training.from_dict, values.get("trainings", ())))
            plan = cls(
                device, engine, precision, groups, reason, arithmetic, limits, transfer, made_for, machines=machines,
                trainings=trainings,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"plan: expected one recorded by atras, got something else ({error}); plan anew") from None
        one_of("engine", plan.engine, ENGINES)
        one_of("precision", plan.precision, PRECISIONS)
        # A run that went on with another engine or precision keeps the groups that it had finished.
        for name, taken in {(engine, precision), *((group.engine, group.precision) for group in groups)}:
            if taken not in ENGINES.get(name).precisions:
                raise InputError(f"plan: engine {name} does not compute in {taken}; plan anew")
        planned = [member for group in plan.groups for member in group.members]
        if Counter(planned) != Counter(protocol.members):
            raise InputError("plan: its members are not the protocol's; leave the recorded plan out to plan anew")
        return plan

    @property
    def _computed_by(self) -> str:
        """Engine and precision, and those of the user's own modules where there are others too."""
        own = {(g.engine, g.precision): None for g in self.groups if ENGINES.get(g.engine).takes_modules}
        others = [f"{engine} in {precision}" for engine, precision in own if engine != self.engine]
        also = f"; your modules: engine {', '.join(others)}" if others else ""
        return f"engine {self.engine}, precision {self.precision}{also}"

    def work(self, groups: Iterable[int]) -> tuple[dict[int, tuple[float, float]], float]:
        """Predicted seconds of groups, by number, for training and for attacks, and those of the transfer after all.

        Where no speed was measured, the FLOPs of training stand for them. Trainings have numbers below 0: see `at`.
        """
        chosen = {index: self.at(index) for index in groups}
        if any(group.predicted_seconds is None for group in self.groups):
            return {index: (float(group.flops), 0.0) for index, group in chosen.items()}, 0.0
        works = {}
        for index, group in chosen.items():
            attacks, transfer = group.predicted_attack_seconds or 0.0, group.predicted_transfer_seconds or 0.0
            works[index] = max((group.predicted_seconds or 0.0) - attacks - transfer, 0.0), attacks
        return works, sum(group.predicted_transfer_seconds or 0.0 for group in self.groups)

    @property
    def members(self) -> int:
        """How many all groups have."""
        return sum(len(group.members) for group in self.groups)

    def _saved(self) -> list[str]:
        """What shared first trainings save, in a line; none where nothing is shared."""
        shared = [training for training in self.trainings if training.saved_flops]
        if not shared:
            return []
        seconds = [training.saved_seconds for training in shared]
        told = "" if None in seconds else f" and {sum(filter(None, seconds)):.1f} seconds"
        flops = sum(training.saved_flops for training in shared) / 1e12
        text = f"first trainings that several groups begin with are done once, which saves {flops:.3g} TFLOP{told}"
        return [text]

    def at(self, number: int) -> Group:
        """A group by its number; those of trainings are -1, -2, ..., so that a group that is divided moves none."""
        return self.groups[number] if number >= 0 else self.trainings[-1 - number].group

    @property
    def place(self) -> str:
        """Device and engines, in words."""
        return f"device {self.device}, {self._computed_by}"

    def lines(self, width: int = 80) -> list[str]:
        """The plan as text.

        Args:
            width: columns of the terminal, at least 60.
        """
        room = min(38, width - 41)
        anew = f"planned anew, the recorded plan does not fit: {self.replanned}" if self.replanned else ""
        told = (self.place, anew, self.reason, self.precision_reason, *self.limits)
        lines = wrapped(told, width)
        lines.append(f"{'group':<{room}} {'members':>7} {'padding':>7} {'TFLOP':>7} {'MiB':>7} {'seconds':>8}")
        for common, groups in itertools.groupby(self.groups, lambda group: group.common):
            lines += wrapped([common], width)
            lines += [row for group in groups for row in _rows(group.span, [group], room)]
        for name, source in (("before: the defence's sources", True), ("before: shared first trainings", False)):
            if trained := [training.group for training in self.trainings if training.source == source]:
                lines += _rows(name, trained, room)
        everything = [*self.groups, *(training.group for training in self.trainings)]
        lines += _rows("all", everything, room, self.members)
        lines += wrapped(self._saved(), width)
        attacks = [group.predicted_attack_seconds for group in self.groups]
        transfers = [group.predicted_transfer_seconds for group in self.groups]
        if None not in attacks:
            parts = f"evaluation and attacks {sum(filter(None, attacks)):.1f}"
            parts += f", transfer {sum(filter(None, transfers)):.1f}" if any(transfers) else ""
            lines += wrapped([f"seconds of these: {parts}"], width)
        if self.predicted_transfer_bytes is not None:
            lines.append(f"transfer, after all groups: {self.predicted_transfer_bytes / 2**20:.0f} MiB")
        return lines


def _rows(label: str, groups: Sequence[Group], room: int, members: int | None = None) -> list[str]:
    """A row of the table; a label that finds no room stands above its figures."""
    *above, last = wrapped([label], room)
    flops = sum(group.flops for group in groups)
    computed = sum(group.flops / (1 - group.padding_share) for group in groups)
    padding = 1 - flops / computed if computed else max(group.padding_share for group in groups)  # nothing is trained
    seconds = [group.predicted_seconds for group in groups]
    shown = "?" if None in seconds else f"{sum(filter(None, seconds)):.1f}"
    return [
        *above,
        f"{last:<{room}} {members or sum(len(group.members) for group in groups):>7} {padding:>7.0%} "
        f"{flops / 1e12:>7.2f} {max(group.predicted_bytes for group in groups) / 2**20:>7.0f} {shown:>8}",
    ]


def _values(group: Group) -> dict[str, Any]:
    """A group as JSON values."""
    values = {f.name: getattr(group, f.name) for f in dataclasses.fields(group)}
    return values | {"members": [member.to_list() for member in group.members]}


def _group(values: dict[str, Any]) -> Group:
    """A group of a recorded plan; ValueError or TypeError where it is none."""
    members = tuple(map(Member.from_list, values["members"]))
    for member in members:
        whole("seed", member.seed, 0, 2**63 - 1)
    group = Group(**(values | {"members": members}))
    one_of("engine", group.engine, ENGINES)
    one_of("precision", group.precision, PRECISIONS)
    whole("evaluation_batch", group.evaluation_batch, 1, 10**6)
    for name in ("parameters", "flops", "predicted_bytes", "chunk"):
        whole(name, getattr(group, name), 0, 10**30)
    if not isinstance(group.begun, bool):
        raise ValueError("begun: expected true or false")
    number("padding_share", group.padding_share, 0.0, 0.999999)
    for name in SECONDS:
        if getattr(group, name) is not None:
            number(name, getattr(group, name), 0.0, 1e15)
    structures = {member.candidate.structure for member in members}
    if not members or (ENGINES.get(group.engine).pads and len(structures) > 1):
        raise InputError("members: expected at least one, and one depth in a stack")
    return group


def _short(name: str) -> str:
    parts = name.split("-")
    return name if len(parts) <= 3 else f"{parts[0]}-..-{parts[-1]}"
