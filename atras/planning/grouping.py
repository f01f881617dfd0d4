"""Division of members into groups, by the costs of padding and launches, the number of threads, and the memory.

The groups are a pure function of protocol, data shape, machine and memory cap. Measured speed only predicts seconds; it
decides nothing, so equal machines plan alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

from atras.engines import DTYPES, ENGINES, Engine
from atras.errors import InputError
from atras.experiment import Protocol
from atras.networks import Candidate, Member, Network, Spec, Variant, members_of, widest

from .cost import (
    activation_values,
    copies_kept,
    distance_bytes,
    fused_bytes,
    fused_device_bytes,
    fused_device_rows,
    member_bytes,
    selection_bytes,
    training_flops,
    weight_copies,
)
from .machine import Machine
from .plan import SECONDS, Group
from .streaming import chunk_bytes, chunk_images

STEP_COST = {"cpu": 1e8, "cuda": 1e10}
"""FLOPs that a device could have done while one training step's operations are launched: what padding must save."""

FUSED_MEMBERS_A_THREAD = 4
"""Least members a thread in a fused group: threads take whole members, and the last one should not wait for long."""

EVALUATION_BATCH = 250
EVALUATION_BYTES = 2**28
DEVICE_EVALUATION_BATCH = 512
DEVICE_EVALUATION_BYTES = 2**30
"""On a GPU in engine fused, where each call waits for the host: a few whole blocks of the kernels'."""


def make_groups(
    protocol: Protocol,
    spec: Spec,
    train_size: int,
    test_size: int,
    engine: str,
    machine: Machine,
    done: Collection[Member] = (),
    variants: Sequence[Variant] = (Variant(),),
) -> tuple[Group, ...]:
    """Depth groups, each cut into width groups where padding would cost more than launches, and by memory.

    In engine fused depths are joined: until threads have enough members on a CPU, and all of them on a GPU.

    Args:
        protocol: candidates, seeds, batch size, precision; without axes.
        spec: shared shape of the networks.
        train_size, test_size: images.
        engine: `loop`, `stack` or `fused`.
        machine: kind, memory cap, threads.
        done: members to leave out.
        variants: of the members, which share a group: they differ in nothing that is planned by.

    Raises:
        InputError: if a single member needs more than the cap.
    """
    sizer = _Sizer(protocol, spec, train_size, test_size, engine, machine)
    sizer.copies = len(protocol.seeds) * len(variants)
    gone = set(done)
    left = dict.fromkeys(
        member for member in members_of(protocol.candidates, protocol.seeds, variants) if member not in gone
    )
    candidates = list(dict.fromkeys(member.candidate for member in left))
    parts = [_by_depth(part) for part in _alike(candidates, sizer.engine, spec, machine.kind)]
    if sizer.engine.any_depths:
        enough = FUSED_MEMBERS_A_THREAD * machine.threads if machine.kind == "cpu" else math.inf
        parts = [_joined(part, enough, sizer.copies) for part in parts]
    runs = sorted((run for part in parts for run in part), key=lambda run: run[0].depth)
    if sizer.engine.pads:
        cost = STEP_COST[machine.kind]
        runs = [narrow for run in runs for narrow in width_groups(run, sizer.step_flops, cost)]
    groups: list[Group] = []
    for run in runs:
        groups += sizer.fit([member for member in members_of(run, protocol.seeds, variants) if member in left])
    return tuple(groups)


def halves(
    group: Group, protocol: Protocol, spec: Spec, train_size: int, test_size: int, kind: str, streams: bool = False
) -> tuple[Group, Group]:
    """A group of at least two members as two groups, for a machine of a kind that turned out to have less memory."""
    sizer = _Sizer(protocol, spec, train_size, test_size, group.engine, Machine(kind, 0, streams=streams))
    sizer.begin(begun=group.begun)
    middle = len(group.members) // 2
    first, second = (
        dataclasses.replace(
            sizer.group(part, len(part)),
            evaluation_batch=max(16, group.evaluation_batch // 2),
            begun=group.begun,
            **_scaled_seconds(group, len(part) / len(group.members)),
        )
        for part in (group.members[:middle], group.members[middle:])
    )
    return first, second


def cut(
    group: Group,
    parts: Sequence[range],
    protocol: Protocol,
    spec: Spec,
    train_size: int,
    test_size: int,
    machine: Machine,
) -> list[Group]:
    """A group as several, of neighbouring members, for machines that compute them at the same time.

    Args:
        group: of a plan.
        parts: places of the members of each.
        protocol, spec: of the run.
        train_size, test_size: images.
        machine: one of them.
    """
    resolved = protocol.replace(precision=group.precision)
    sizer = _Sizer(resolved, spec, train_size, test_size, group.engine, machine)
    sizer.begin(begun=group.begun)
    made = []
    for part in parts:
        members = group.members[part.start : part.stop]
        own = sizer.group(members, 1 if sizer.engine.one_by_one else len(members))
        seconds = _scaled_seconds(group, own.flops / group.flops if group.flops else len(members) / len(group.members))
        made.append(dataclasses.replace(own, evaluation_batch=group.evaluation_batch, begun=group.begun, **seconds))
    return made


def group_bytes(group: Group, protocol: Protocol, spec: Spec, train_size: int, test_size: int, machine: Machine) -> int:
    """Most memory that a group, as some run planned it, is predicted to need on a machine."""
    resolved = protocol.replace(precision=group.precision)
    sizer = _Sizer(resolved, spec, train_size, test_size, group.engine, machine)
    return sizer.bytes(group.members, 1 if sizer.engine.one_by_one else len(group.members))


def training_group(
    members: Sequence[Member],
    like: Group,
    protocol: Protocol,
    spec: Spec,
    train_size: int,
    test_size: int,
    machine: Machine,
) -> Group:
    """The first training of some members as a group of its own, which costs no more than that.

    Args:
        members: as their first training knows them.
        like: a group whose engine, precision and batches are theirs.
        protocol, spec: of that group.
        train_size, test_size: images.
        machine: that computes it.
    """
    resolved = protocol.replace(precision=like.precision)
    sizer = _Sizer(resolved, spec, train_size, test_size, like.engine, machine, like.evaluation_batch)
    sizer.samples = first_samples(protocol, train_size)
    at_once = 1 if sizer.engine.one_by_one else len(members)
    return dataclasses.replace(sizer.group(members, at_once), evaluation_batch=like.evaluation_batch, chunk=like.chunk)


def first_samples(protocol: Protocol, train_size: int) -> int:
    """Images that a member sees in its first training, each as often as it is seen."""
    return protocol.epochs * train_size


def group_of(
    members: Sequence[Member], protocol: Protocol, spec: Spec, engine: str, machine: Machine, images: int, batch: int
) -> Group:
    """Members as one group, whatever the cap, with the bytes that they take beside the plan's groups.

    Args:
        members: of one structure where the engine pads.
        images: those of which a sign a pixel is kept.
        batch: images of a forward pass in evaluation and attack.
    """
    sizer = _Sizer(protocol, spec, images, 0, engine, machine, batch)
    sizer.protocol = protocol  # whose batches these images do not limit
    return sizer.group(members, len(members))


def _scaled_seconds(group: Group, share: float) -> dict[str, Any]:
    predicted = {name: getattr(group, name) for name in SECONDS}
    return {name: seconds and seconds * share for name, seconds in predicted.items()}


def _alike(candidates: Sequence[Candidate], engine: type[Engine], spec: Spec, kind: str) -> list[list[Candidate]]:
    """Candidates that an engine can hold in one group, together; in the order in which their kinds come."""
    alike: dict[object, list[Candidate]] = {}
    for candidate in candidates:
        alike.setdefault(engine.alike(spec, candidate, kind), []).append(candidate)
    return list(alike.values())


def _by_depth(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Candidates of each depth, from the least depth on."""
    depths = sorted({candidate.depth for candidate in candidates})
    return [[candidate for candidate in candidates if candidate.depth == depth] for depth in depths]


def _joined(runs: Sequence[list[Candidate]], members: float, copies: int) -> list[list[Candidate]]:
    """Runs of neighbouring depths joined until each has enough members for threads to share them evenly."""
    joined: list[list[Candidate]] = []
    for run in runs:
        if joined and len(joined[-1]) * copies < members:
            joined[-1] = [*joined[-1], *run]
        else:
            joined.append(run)
    if len(joined) > 1 and len(joined[-1]) * copies < members:
        joined[-2:] = [joined[-2] + joined[-1]]
    return joined


def width_groups(
    candidates: Sequence[Candidate], step_flops: Callable[[Candidate], float], step_cost: float
) -> list[list[Candidate]]:
    """Cut candidates of one structure into runs, in order of width, that cost least in padding and launches together.

    Args:
        candidates: all of one structure.
        step_flops: from a candidate to the FLOPs of its training step, all its members included.
        step_cost: FLOPs that a further group's launches are worth.
    """
    order = sorted(candidates, key=lambda candidate: (step_flops(candidate), candidate.widths))
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        choices = []
        for start in range(end):
            flops = step_flops(widest(order[start:end]))
            choices.append((best[start][0] + step_cost + (end - start) * flops, start))
        best.append(min(choices))
    runs: list[list[Candidate]] = []
    end = len(order)
    while end:
        start = best[end][1]
        runs.insert(0, order[start:end])
        end = start
    return runs


@lru_cache(maxsize=64)  # to check ten thousand candidates anew for each group takes minutes
def with_batches_for(protocol: Protocol, train_size: int) -> Protocol:
    """The same experiment, whose batch size says no more images than the longest epoch has: engines and the plan make
    room for all of them.

    Args:
        protocol: without axes.
        train_size: training images; 0 where nothing is trained.
    """
    most = max(train_size, protocol.defence.epoch_images(train_size))
    return protocol if protocol.batch_size <= most or not most else protocol.replace(batch_size=most)


class _Sizer:
    """Turns members into groups that fit the memory cap, with their counted cost."""

    def __init__(
        self,
        protocol: Protocol,
        spec: Spec,
        train_size: int,
        test_size: int,
        engine: str,
        machine: Machine,
        batch: int | None = None,
    ) -> None:
        self.protocol, self.spec, self.machine = with_batches_for(protocol, train_size), spec, machine
        self.engine: type[Engine] = ENGINES.get(engine)
        self.train_size, self.batch = train_size, batch
        self.copies = len(protocol.seeds)
        self.images = 0 if machine.streams else train_size + test_size
        seen = protocol.defence.images_seen(train_size)
        self.samples = protocol.epochs * train_size + protocol.adversarial_epochs * seen
        self.distances = distance_bytes(protocol, test_size)
        self.itemsize = DTYPES[protocol.precision].itemsize

    def begin(self, *, begun: bool) -> None:
        """Leave the first training out, where others do it."""
        if begun:
            self.samples -= first_samples(self.protocol, self.train_size)

    def step_flops(self, candidate: Candidate) -> int:
        """Of a candidate's training step, all its members included."""
        flops = training_flops(Network(self.spec, candidate))
        return flops * self.protocol.batch_size * self.copies

    def fit(self, members: Sequence[Member]) -> Iterator[Group]:
        """One group, or as many of equal size as the cap asks for."""
        at_once = 1 if self.engine.one_by_one else len(members)
        while at_once > 1 and self.bytes(members, at_once) > self.machine.memory_bytes:
            at_once = -(-at_once // 2)
        need = self.bytes(members, at_once)
        if need > self.machine.memory_bytes:
            raise InputError(
                f"memory (={self.machine.memory_bytes / 2**20:.0f} MiB): expected room for one member, which needs "
                f"{need / 2**20:.0f} MiB; raise --memory or lower --batch-size or --train-size"
            )
        size = len(members) if self.engine.one_by_one else at_once
        for start in range(0, len(members), size):
            yield self.group(members[start : start + size], at_once)

    def group(self, members: Sequence[Member], at_once: int) -> Group:
        networks = [Network(self.spec, member.candidate) for member in members]
        useful = sum(map(training_flops, networks))
        computed = len(members) * training_flops(self._widest(networks)) if self.engine.pads else useful
        return Group(
            engine=self.engine.name,
            precision=self.protocol.precision,
            members=tuple(members),
            evaluation_batch=self._evaluation_batch(networks[:at_once]),
            parameters=sum(network.parameter_count for network in networks),
            flops=useful * self.samples,
            padding_share=1 - useful / computed,
            predicted_bytes=self.bytes(members, at_once),
            chunk=self.chunk(at_once),
        )

    def bytes(self, members: Sequence[Member], at_once: int) -> int:
        """Most memory at once, of members that are computed so many at a time."""
        parts = (members[start : start + at_once] for start in range(0, len(members), at_once))
        # Not the first ones alone: the last ones may be the widest.
        return max(
            self._engine_bytes(part)
            + self._selected_bytes(part)
            + len(part) * self.distances
            + chunk_bytes(self.protocol, self.spec, len(part), self.chunk(len(part)))
            for part in parts
        )

    def chunk(self, members: int) -> int:
        """Images of each order that are on the device at once while so many members train; 0 for all."""
        return chunk_images(self.protocol, self.spec, members, self.train_size, self.machine)

    def _engine_bytes(self, members: Sequence[Member]) -> int:
        networks = [Network(self.spec, member.candidate) for member in members]
        batches: dict[str, Any] = {
            "batch": self.protocol.step_images,
            "evaluation_batch": self._evaluation_batch(networks),
            "images": self.images,
        }
        if len({member.variant.get("epsilon") for member in members}) > 1:
            networks = [*networks, *networks]  # those of each epsilon are attacked on an engine of their own
        if self.engine.any_depths and self.machine.kind == "cuda":
            averages = self.protocol.average > 0
            return fused_device_bytes(networks, precision=self.protocol.precision, averages=averages, **batches)
        if self.engine.any_depths:
            copies = copies_kept(self.protocol)
            precision, threads = str(self.protocol.precision), self.machine.threads
            return fused_bytes(
                networks, precision=precision, threads=threads, copies=copies, averages=self.protocol.average > 0,
                clips=self.protocol.clip_gradient is not None, **batches,
            )  # fmt: skip
        stored = [self._widest(networks)] * len(networks) if self.engine.pads else networks
        copies = weight_copies(self.protocol)
        return sum(member_bytes(network, itemsize=self.itemsize, kept_copies=copies, **batches) for network in stored)

    def _selected_bytes(self, members: Sequence[Member]) -> int:
        networks = [Network(self.spec, member.candidate) for member in members]
        return selection_bytes(self.protocol, networks, self.machine.kind)

    def _widest(self, networks: Sequence[Network]) -> Network:
        return Network(self.spec, widest([network.candidate for network in networks]))

    def _evaluation_batch(self, networks: Sequence[Network]) -> int:
        """As many images as fit the budget with all that is kept of them at once, unless it was said how many."""
        if self.batch is not None:
            return self.batch
        if self.engine.any_depths:
            kept = copies_kept(self.protocol) * math.prod(self.spec.image_shape)
            if self.machine.kind == "cuda":
                most = DEVICE_EVALUATION_BYTES // (kept * self.itemsize * len(networks))
                return self._whole_blocks(networks, max(16, min(DEVICE_EVALUATION_BATCH, most)))
        else:
            kept = max(map(activation_values, [self._widest(networks)] if self.engine.pads else networks))
        return max(16, min(EVALUATION_BATCH, EVALUATION_BYTES // (kept * self.itemsize * len(networks))))

    def _whole_blocks(self, networks: Sequence[Network], most: int) -> int:
        """The most images that leave no block of the kernels' half empty."""
        precision, batch = str(self.protocol.precision), self.protocol.step_images
        rows = fused_device_rows(networks, precision=precision, batch=batch)
        return most // rows * rows or most
