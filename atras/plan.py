"""The plan: which members are computed together, by which engine, and what that will take.

A plan is a pure function of protocol, data shape, machine and memory cap. Measured speed only predicts seconds; it
decides nothing, so equal machines plan alike.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .cost import (
    Hidden,
    activation_values,
    copies_kept,
    fused_bytes,
    fused_device_bytes,
    member_bytes,
    padded,
    training_flops,
)
from .engine import DTYPES, Member
from .errors import InputError
from .model import Spec, parameter_count
from .protocol import Protocol, number, one_of, whole
from .space import Candidate

STEP_COST = {"cpu": 1e8, "cuda": 1e10}
"""FLOPs that a device could have done while one training step's operations are launched: what padding must save."""

MEMORY_SHARE = 0.6
"""Of the device's memory, what a group may be predicted to need when no cap is given: predictions are not exact."""

FUSED_MEMBERS_A_THREAD = 4
"""Least members a thread in a fused group: threads take whole members, and the last one should not wait for long."""

SECONDS = ("predicted_seconds", "predicted_attack_seconds", "predicted_transfer_seconds")
"""What a group's predicted times are called."""

EVALUATION_BATCH = 250
EVALUATION_BYTES = 2**28


@dataclass(frozen=True)
class Machine:
    """What a plan may depend on.

    Args:
        kind: `cpu` or `cuda`.
        memory_bytes: most that a group may be predicted to need.
        fused: why engine fused cannot run here; empty where it can.
        fused_slow: why it is slower here than plain torch, though it can run; empty where it is not.
        bf16: whether engine fused has bf16 here; a GPU has tf32 then too.
        threads: that compute.
    """

    kind: str
    memory_bytes: int
    fused: str = ""
    bf16: bool = False
    threads: int = 1
    fused_slow: str = ""


@dataclass(frozen=True)
class Group:
    """Members computed together.

    Args:
        engine: `loop`, `stack` or `fused`.
        members: (candidate, seed) pairs.
        evaluation_batch: images of a forward pass in evaluation and attack.
        parameters: of all members, padding left out.
        flops: useful FLOPs of all training steps.
        padding_share: share of the computed FLOPs that padding adds, in [0, 1).
        predicted_bytes: most memory at once.
        predicted_seconds: of all; None where speed was not measured.
        predicted_attack_seconds, predicted_transfer_seconds: the parts of it for evaluation and attacks, and transfer.
    """

    engine: str
    members: tuple[Member, ...]
    evaluation_batch: int
    parameters: int
    flops: int
    padding_share: float
    predicted_bytes: int
    predicted_seconds: float | None = None
    predicted_attack_seconds: float | None = None
    predicted_transfer_seconds: float | None = None

    @property
    def label(self) -> str:
        """Depth and first and last candidate, such as `depth 2: 8-128 .. 64-1024`."""
        names = [member.candidate.name for member in self.members]
        depths = sorted({member.candidate.depth for member in self.members})
        if len(depths) > 1:
            return f"depth {depths[0]} to {depths[-1]}: {len(set(names))} candidates"
        span = names[0] if len(set(names)) == 1 else f"{_short(names[0])} .. {_short(names[-1])}"
        return f"depth {depths[0]}: {span}"


@dataclass(frozen=True)
class Plan:
    """All groups in the order they are computed; `reason` says why the engine is not the one that is best elsewhere."""

    device: str
    engine: str
    precision: str
    groups: tuple[Group, ...]
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for `run.json`."""
        groups = []
        for group in self.groups:
            values = {f.name: getattr(group, f.name) for f in dataclasses.fields(group)}
            groups.append(values | {"members": [[m.candidate.name, m.seed] for m in group.members]})
        head = {"device": self.device, "engine": self.engine, "precision": self.precision, "reason": self.reason}
        return head | {"groups": groups}

    @classmethod
    def from_dict(cls, values: dict[str, Any], protocol: Protocol) -> Plan:
        """The plan that an earlier run recorded.

        Raises:
            InputError: if it is not a plan for this protocol.
        """
        try:
            groups = tuple(_group(group) for group in values["groups"])
            device, engine, precision = (str(values[name]) for name in ("device", "engine", "precision"))
            plan = cls(device, engine, precision, groups, str(values.get("reason", "")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"plan: expected one recorded by atras, got something else ({error}); plan anew") from None
        one_of("precision", plan.precision, ("fp32", "fp64", "tf32", "bf16"))
        if any(group.engine != plan.engine for group in groups):
            raise InputError(f"plan: expected groups of its engine {plan.engine}; plan anew")
        if plan.precision in (("fp64",) if plan.engine == "fused" else ("tf32", "bf16")):
            raise InputError(f"plan: engine {plan.engine} does not compute in {plan.precision}; plan anew")
        planned = [member for group in plan.groups for member in group.members]
        if sorted(planned) != sorted(members_of(protocol)):
            raise InputError("plan: its members are not the protocol's; leave the recorded plan out to plan anew")
        return plan

    def lines(self) -> list[str]:
        """The plan as text, at most 80 columns wide."""
        head = f"{'group':<38} {'members':>7} {'padding':>7} {'TFLOP':>7} {'MiB':>7} {'seconds':>8}"
        lines = [f"device {self.device}, engine {self.engine}, precision {self.precision}"]
        lines += [*textwrap.wrap(self.reason, 80), head]
        lines += [*(_line(group.label, [group]) for group in self.groups), _line("all", self.groups)]
        attacks = [group.predicted_attack_seconds for group in self.groups]
        transfers = [group.predicted_transfer_seconds for group in self.groups]
        if None not in attacks:
            parts = f"evaluation and attacks {sum(filter(None, attacks)):.1f}"
            parts += f", transfer {sum(filter(None, transfers)):.1f}" if any(transfers) else ""
            lines.append(f"seconds of these: {parts}")
        return lines


def members_of(protocol: Protocol) -> tuple[Member, ...]:
    """Every (candidate, seed) pair, in the order of the result table."""
    return tuple(Member(candidate, seed) for candidate in protocol.candidates for seed in protocol.seeds)


def choose_engine(engine: str, precision: str, spec: Spec, machine: Machine) -> tuple[str, str]:
    """What `auto` means for engine and precision; both come from what can be done, not from what was measured.

    That is `fused`. Where its kernels are missing or slow, or fp64 is asked for, it is `stack`; but on a CPU, where a
    stack of convolutions is slower than a loop, `loop` for those.

    Raises:
        InputError: if the two do not go together, or the machine cannot do what was asked.
    """
    if engine == "auto":
        slow = machine.fused_slow and precision != "bf16"  # which no other engine has
        if not machine.fused and not slow and precision != "fp64":
            engine = "fused"
        else:
            engine = "loop" if machine.kind == "cpu" and spec.convolutions else "stack"
    if engine == "fused":
        if machine.fused:
            raise InputError(f"engine (=fused): {machine.fused}")
        if precision == "fp64":
            raise InputError("precision (=fp64): engine fused computes in fp32 or less; use --engine loop or stack")
        if reason := _lacks(precision, machine):
            raise InputError(f"precision (={precision}): {reason}; use --precision fp32")
        return engine, ("bf16" if machine.bf16 else "fp32") if precision == "auto" else precision
    if precision in ("tf32", "bf16"):
        missing = f", which cannot run here: {machine.fused}" if machine.fused else ""
        raise InputError(
            f"precision (={precision}): engine {engine} computes in fp32 or fp64; use --engine fused{missing}"
        )
    return engine, "fp32" if precision == "auto" else precision


def reason_for(asked: str, engine: str, machine: Machine) -> str:
    """Why `auto` did not take engine fused: a line for people; empty where it did or was not asked."""
    why = machine.fused or machine.fused_slow
    if asked != "auto" or engine == "fused" or not why:
        return ""
    return f"engine fused is not taken: {why}"


def _lacks(precision: str, machine: Machine) -> str:
    """Why engine fused has no such precision here; empty where it has."""
    if precision == "tf32" and machine.kind == "cpu":
        return "only GPUs have it"
    if precision in ("tf32", "bf16") and not machine.bf16:
        cpu = machine.kind == "cpu"
        return "this processor has neither AVX512-BF16 nor AMX" if cpu else "this GPU's capability is below 8.0"
    return ""


def make_groups(
    protocol: Protocol,
    spec: Spec,
    train_size: int,
    test_size: int,
    engine: str,
    machine: Machine,
    done: Collection[Member] = (),
) -> tuple[Group, ...]:
    """Depth groups, each cut into width groups where padding would cost more than launches, and by memory.

    In engine fused depths are joined: until threads have enough members on a CPU, and all of them on a GPU.

    Args:
        protocol: candidates, seeds, batch size, precision.
        spec: shared shape of the networks.
        train_size, test_size: images.
        engine: `loop`, `stack` or `fused`.
        machine: kind, memory cap, threads.
        done: members to leave out.

    Raises:
        InputError: if a single member needs more than the cap.
    """
    sizer = _Sizer(protocol, spec, train_size, test_size, engine, machine)
    left = dict.fromkeys(member for member in members_of(protocol) if member not in set(done))
    candidates = list(dict.fromkeys(member.candidate for member in left))
    depths = sorted({candidate.depth for candidate in candidates})
    runs = [[candidate for candidate in candidates if candidate.depth == depth] for depth in depths]
    if engine == "stack":
        runs = [run for same in runs for run in width_groups(same, sizer.step_flops, STEP_COST[machine.kind])]
    if engine == "fused":
        enough = FUSED_MEMBERS_A_THREAD * machine.threads if machine.kind == "cpu" else math.inf
        runs = _joined(runs, enough, len(protocol.seeds))
    groups: list[Group] = []
    for run in runs:
        groups += sizer.fit([m for m in (Member(c, seed) for c in run for seed in protocol.seeds) if m in left])
    return tuple(groups)


def halves(
    group: Group, protocol: Protocol, spec: Spec, train_size: int, test_size: int, kind: str
) -> tuple[Group, Group]:
    """A group of at least two members as two groups, for a machine of a kind that turned out to have less memory."""
    sizer = _Sizer(protocol, spec, train_size, test_size, group.engine, Machine(kind, 0))
    middle = len(group.members) // 2
    first, second = (
        dataclasses.replace(
            sizer.group(part, len(part)),
            evaluation_batch=max(16, group.evaluation_batch // 2),
            **_scaled_seconds(group, len(part) / len(group.members)),
        )
        for part in (group.members[:middle], group.members[middle:])
    )
    return first, second


def _scaled_seconds(group: Group, share: float) -> dict[str, Any]:
    found = {name: getattr(group, name) for name in SECONDS}
    return {name: seconds and seconds * share for name, seconds in found.items()}


def _joined(runs: Sequence[list[Candidate]], members: float, seeds: int) -> list[list[Candidate]]:
    """Runs of neighbouring depths joined until each has enough members for threads to share them evenly."""
    joined: list[list[Candidate]] = []
    for run in runs:
        if joined and len(joined[-1]) * seeds < members:
            joined[-1] = [*joined[-1], *run]
        else:
            joined.append(run)
    if len(joined) > 1 and len(joined[-1]) * seeds < members:
        joined[-2:] = [joined[-2] + joined[-1]]
    return joined


def width_groups(candidates: Sequence[Candidate], step_flops: Any, step_cost: float) -> list[list[Candidate]]:
    """Cut candidates of one depth into runs, in order of width, that cost least in padding and launches together.

    Args:
        candidates: all of one depth.
        step_flops: from hidden widths to the FLOPs of one candidate's training step, all its seeds included.
        step_cost: FLOPs that a further group's launches are worth.
    """
    order = sorted(candidates, key=lambda candidate: (step_flops(candidate.hidden), candidate.hidden))
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        choices = []
        for start in range(end):
            widths = padded([candidate.hidden for candidate in order[start:end]])
            choices.append((best[start][0] + step_cost + (end - start) * step_flops(widths), start))
        best.append(min(choices))
    runs: list[list[Candidate]] = []
    end = len(order)
    while end:
        start = best[end][1]
        runs.insert(0, order[start:end])
        end = start
    return runs


class _Sizer:
    """Turns members into groups that fit the memory cap, with their counted cost."""

    def __init__(
        self, protocol: Protocol, spec: Spec, train_size: int, test_size: int, engine: str, machine: Machine
    ) -> None:
        self.protocol, self.spec, self.engine, self.machine = protocol, spec, engine, machine
        self.images = train_size + test_size
        self.samples = protocol.epochs * train_size + protocol.adversarial_epochs * 2 * train_size
        self.itemsize = DTYPES[protocol.precision].itemsize

    def step_flops(self, hidden: Hidden) -> int:
        return training_flops(self.spec, hidden) * self.protocol.batch_size * len(self.protocol.seeds)

    def fit(self, members: Sequence[Member]) -> Iterator[Group]:
        """One group, or as many of equal size as the cap asks for."""
        at_once = 1 if self.engine == "loop" else len(members)
        while at_once > 1 and self._bytes(members, at_once) > self.machine.memory_bytes:
            at_once = -(-at_once // 2)
        need = self._bytes(members, at_once)
        if need > self.machine.memory_bytes:
            raise InputError(
                f"memory (={self.machine.memory_bytes / 2**20:.0f} MiB): expected room for one member, which needs "
                f"{need / 2**20:.0f} MiB; raise --memory or lower --batch-size or --train-size"
            )
        size = len(members) if self.engine == "loop" else at_once
        for start in range(0, len(members), size):
            yield self.group(members[start : start + size], at_once)

    def group(self, members: Sequence[Member], at_once: int) -> Group:
        hiddens = [member.candidate.hidden for member in members]
        useful = sum(training_flops(self.spec, hidden) for hidden in hiddens)
        stacked = self.engine == "stack"
        computed = len(members) * training_flops(self.spec, padded(hiddens)) if stacked else useful
        return Group(
            engine=self.engine,
            members=tuple(members),
            evaluation_batch=self._evaluation_batch(hiddens, at_once),
            parameters=sum(parameter_count(self.spec, hidden) for hidden in hiddens),
            flops=useful * self.samples,
            padding_share=1 - useful / computed,
            predicted_bytes=self._bytes(members, at_once),
        )

    def _bytes(self, members: Sequence[Member], at_once: int) -> int:
        hiddens = [member.candidate.hidden for member in members][:at_once]
        evaluation_batch = self._evaluation_batch(hiddens, at_once)
        if self.engine == "fused":
            sizes = {
                "evaluation_batch": evaluation_batch,
                "batch": self.protocol.batch_size,
                "images": self.images,
            }
            if self.machine.kind == "cuda":
                return fused_device_bytes(self.spec, hiddens, precision=self.protocol.precision, **sizes)
            copies = copies_kept(self.protocol)
            return fused_bytes(self.spec, hiddens, threads=self.machine.threads, copies=copies, **sizes)
        each = member_bytes(
            self.spec,
            padded(hiddens),
            itemsize=self.itemsize,
            batch=self.protocol.batch_size,
            evaluation_batch=evaluation_batch,
            images=self.images,
        )
        return each * at_once

    def _evaluation_batch(self, hiddens: Sequence[Hidden], at_once: int) -> int:
        """As many images as fit the budget with all that is kept of them at once."""
        fused = self.engine == "fused"
        kept = (
            copies_kept(self.protocol) * math.prod(self.spec.image_shape)
            if fused
            else activation_values(self.spec, padded(hiddens))
        )
        return max(16, min(EVALUATION_BATCH, EVALUATION_BYTES // (kept * self.itemsize * at_once)))


def _line(label: str, groups: Sequence[Group]) -> str:
    flops = sum(group.flops for group in groups)
    computed = sum(group.flops / (1 - group.padding_share) for group in groups)
    seconds = [group.predicted_seconds for group in groups]
    shown = "?" if None in seconds else f"{sum(filter(None, seconds)):.1f}"
    return (
        f"{label:<38} {sum(len(group.members) for group in groups):>7} {1 - flops / computed:>7.0%} "
        f"{flops / 1e12:>7.2f} {max(group.predicted_bytes for group in groups) / 2**20:>7.0f} {shown:>8}"
    )


def _group(values: dict[str, Any]) -> Group:
    """A group of a recorded plan; ValueError or TypeError where it is none."""
    members = tuple(Member(Candidate.parse(name), seed) for name, seed in values["members"])
    for member in members:
        whole("seed", member.seed, 0, 2**63 - 1)
    group = Group(**(values | {"members": members}))
    one_of("engine", group.engine, ("loop", "stack", "fused"))
    whole("evaluation_batch", group.evaluation_batch, 1, 10**6)
    for name in ("parameters", "flops", "predicted_bytes"):
        whole(name, getattr(group, name), 0, 10**30)
    number("padding_share", group.padding_share, 0.0, 0.999999)
    for name in SECONDS:
        if getattr(group, name) is not None:
            number(name, getattr(group, name), 0.0, 1e15)
    depths = {member.candidate.depth for member in members}
    if not members or (group.engine == "stack" and len(depths) > 1):
        raise InputError("members: expected at least one, and one depth in a stack")
    return group


def _short(name: str) -> str:
    parts = name.split("-")
    return name if len(parts) <= 3 else f"{parts[0]}-..-{parts[-1]}"
